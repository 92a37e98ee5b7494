"""Processes of Python that begin with torch imported: forks of one that has imported it, and nothing of ours.

Importing torch takes seconds, which a test of what the environment decides, or of a process that dies, would pay each
time. What a process imports of this repository, and reads from its environment, is its own; what torch reads when it
is imported (OMP_NUM_THREADS) is the first process's.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from multiprocessing.context import ForkServerProcess
from pathlib import Path

# All that train/ and its tests import of other packages; one that is not installed is left out.
PRELOADED = [
    *("torch", "torchvision", "accelerate", "torch.utils.tensorboard"),
    *("numpy", "PIL.Image", "pycocotools.coco", "pycocotools.cocoeval", "cattrs", "tyro"),
]


_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(PRELOADED)


def _run(script: str, environment: dict[str, str], folder: str, root: str) -> None:
    multiprocessing.set_start_method(None, force=True)  # the platform's, and not this process's own
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(root)
    for number, name in enumerate(("output", "errors"), start=1):
        os.dup2(os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = ["-c"]
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})


class Process:
    """A script that runs; what it prints is there to read while it does."""

    def __init__(self, script: str, **environment: str) -> None:
        """Start `script` in the environment of this process, changed by `environment`."""
        self._folder = tempfile.TemporaryDirectory()
        arguments = (script, {**os.environ, **environment}, self._folder.name, os.getcwd())
        self._process: ForkServerProcess = _CONTEXT.Process(target=_run, args=arguments)
        self._process.start()

    @property
    def output(self) -> str:
        return self._read("output")

    @property
    def errors(self) -> str:
        return self._read("errors")

    @property
    def ended(self) -> bool:
        return self._process.exitcode is not None

    def kill(self) -> None:
        """Send SIGKILL, and wait until it has died."""
        self._process.kill()
        self._process.join()

    def end(self, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Wait for the end, as subprocess.run does; a process that takes longer is killed."""
        self._process.join(timeout)
        if not self.ended:
            self.kill()
            raise TimeoutError(f"not ended after {timeout:g} s:\n{self.errors}")
        return subprocess.CompletedProcess("-c", self._process.exitcode, self.output, self.errors)

    def _read(self, name: str) -> str:
        path = Path(self._folder.name) / name
        return path.read_text() if path.exists() else ""


def module(name: str, *arguments: str) -> str:
    """Return the script that does what `python -m NAME ARGUMENTS` does."""
    return f"import runpy, sys\nsys.argv[1:] = {[*arguments]!r}\nrunpy.run_module({name!r}, None, '__main__', True)"


def python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `script` to its end, as `python -c` would."""
    return Process(script, **environment).end()
