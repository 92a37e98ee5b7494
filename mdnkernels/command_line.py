"""What command lines share: how they were called, and how one ends whose output nobody reads any more.

As that of `python -m mdnkernels | head`.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from pathlib import Path

# What a shell reports of a program that SIGPIPE ended.
NO_READER = 128 + 13
# And of one that Ctrl-C ended, so that `fit && evaluate` stops.
INTERRUPTED = 128 + 2


def program() -> str:
    """Return how this process was called, to put before a command: "mdnkernels", or in a checkout "python -m train"."""
    if (name := _running_module()) in ("train", "mdnkernels", "mdnkernels.train"):
        return f"python -m {name}"
    in_checkout = (Path(__file__).parent / "train").is_symlink()
    return "python -m train" if in_checkout and Path(sys.argv[0]).stem != "mdnkernels" else "mdnkernels"


def program_of_models(module: str) -> str:
    """Return how a module of mdnkernels.models, "models.export" for instance, was called: by that name or the whole."""
    return f"python -m mdnkernels.{module}" if _running_module().startswith("mdnkernels.") else f"python -m {module}"


def _running_module() -> str:
    """Return NAME where this process is `python -m NAME`, else nothing."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return "" if module is None else str(module.name).removesuffix(".__main__")


def exit_status(main: Callable[[], int]) -> int:
    """Run `main` and return its exit status: without a traceback NO_READER where the reader of stdout has gone, and
    INTERRUPTED after Ctrl-C."""
    try:
        try:
            return main()
        finally:
            sys.stdout.flush()  # here and not at the interpreter's end, which prints what goes wrong
    except BrokenPipeError:
        return without_reader()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def without_reader() -> int:
    """Return NO_READER where stdout has no reader; raise the BrokenPipeError being handled where it is of another pipe.

    What is still to be written to stdout is dropped.
    """
    stdout = select.poll()
    stdout.register(sys.stdout, 0)  # of no events but errors, the state of a pipe without a reader
    if not stdout.poll(0):
        raise
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return NO_READER
