"""The stages in the order of their importance, and the sharing of the time among them.

Groups of stages follow one another. The stages of one group run at the same time; a stage that is timed has the machine
to itself. The time that is left is shared among the groups still to come in proportion to their seconds. What one group
does not use therefore goes to the others.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu_check.records import ABSENT, append
from benchmarks.gpu_check.supervisor import Stage, supervise

ROOT = Path(__file__).parents[2]
PYTHON = (sys.executable, "-m")
WORKER = (*PYTHON, "benchmarks.gpu_check.worker")
MATRIX = "tests/ops/test_matrix.py"
SANITIZERS = ("memcheck", "racecheck", "synccheck")
# The stage that compiles ahead leaves cores to the build.
FEW_COMPILERS = {"TORCHINDUCTOR_COMPILE_THREADS": "4"}
Group = Sequence[Stage]


def groups(folder: Path, device: str, capability: str | None, cores: int) -> list[Group]:
    """Return all stages. device "cpu" gives small shapes, and leaves out what only a machine with a GPU can do."""
    small = ("--small",) if device == "cpu" else ()

    def stage(name: str, title: str, module: str, backend: str, seconds: float, **options: object) -> Stage:
        records = ("--records", str(folder / f"{name}.jsonl"))
        command = (*WORKER, module, *records, "--device", device, "--backend", backend, *small)
        return Stage(name, title, command, seconds, **options)  # type: ignore[arg-type]

    def agreement(backend: str, seconds: float) -> Stage:
        return stage(f"agreement.{backend}", f"every op against float64, {backend}", "agreement", backend, seconds)

    def execution(backend: str) -> Stage:
        title = f"graphs, streams and threads, {backend}"
        return stage(f"execution.{backend}", title, "execution", backend, 60)

    if device == "cpu":
        return [
            [agreement("native", 45)],
            [stage("timing.plain", "times of the ops", "timing", "plain", 30)],
            [stage("timing.compiled", "times of torch.compile", "timing", "compiled", 30)],
            [matrix(folder, device, 0, 1), execution("native")],
            [stage("networks", "networks in bfloat16", "networks", "native", 30)],
        ]
    ahead = stage("ahead", "compiled ahead", "timing", "ahead", 180, background=True, environment=FEW_COMPILERS)
    # Triton compiles on one core of a process.
    compilers, shares = max(1, min(4, cores // 4)), max(1, min(10, cores - 5))
    return [
        [build(capability), ahead, *shares_of(agreement("triton", 60), compilers), agreement("eager", 60)],
        [agreement("native", 45)],
        [stage("timing.plain", "times of the ops", "timing", "plain", 75)],
        [stage("timing.compiled", "times of torch.compile", "timing", "compiled", 100, item_seconds=120)],
        [
            *(matrix(folder, device, part, shares) for part in range(shares)),
            execution("native"),
            execution("triton"),
            *(sanitizer(stage, tool) for tool in SANITIZERS),
        ],
        [stage("networks", "networks in bfloat16", "networks", "native", 100, item_seconds=120)],
    ]


def shares_of(stage: Stage, parts: int) -> list[Stage]:
    """Split the items of a stage into `parts` stages, each of which runs in a process of its own."""

    def share(part: int) -> Stage:
        name = f"{stage.name}.{part}"
        command = (word.replace(f"{stage.name}.jsonl", f"{name}.jsonl") for word in stage.command)
        return replace(stage, name=name, command=(*command, "--share", f"{part}/{parts}"))

    return [share(part) for part in range(parts)]


def build(capability: str | None) -> Stage:
    """Return the stage that builds both libraries for the GPU at hand.

    Where the CUDA library does not compile, that stage builds the CPU's alone and says so.
    """
    environment = {"MDNKERNELS_BUILD_CUDA": "1"}
    if capability and "TORCH_CUDA_ARCH_LIST" not in os.environ:
        environment["TORCH_CUDA_ARCH_LIST"] = capability
    command = (*PYTHON, "benchmarks.gpu_check.build")
    return Stage("build", "build of both libraries", command, 180, plain=True, environment=environment)


def matrix(folder: Path, device: str, part: int, parts: int) -> Stage:
    """Return the stage of one share of the op matrix."""
    name = f"matrix.{part}"
    chosen = "on_gpu" if device == "cuda" else "one_cell and contiguous and (-native or -eager) and float32"
    plugin = ("-p", "benchmarks.gpu_check.pytest_records", "--records", str(folder / f"{name}.jsonl"))
    options = ("-q", "-p", "no:cacheprovider", *plugin, "--share", f"{part}/{parts}", "-k", chosen)
    # The shares divide the cores among them. Plugins that the machine happens to have are left out.
    environment = {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return Stage(name, "op matrix", (*PYTHON, "pytest", MATRIX, *options), 80, environment=environment)


def sanitizer(stage: Callable[..., Stage], tool: str) -> Stage:
    """Return the stage that runs the native ops under one tool of compute-sanitizer."""
    plain = stage(f"sanitizer.{tool}", f"compute-sanitizer {tool}", "sanitized", "native", 80, item_seconds=120)
    under = (path_in_toolkit("compute-sanitizer"), "--tool", tool, "--error-exitcode", "86")
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return Stage(plain.name, plain.title, (*under, *plain.command), plain.seconds, 120, environment=environment)


def path_in_toolkit(program: str) -> str:
    """Return the path of a program of CUDA's toolkit, or its name where it is not found.

    It is looked for on PATH and where setup.py looks for the toolkit.
    """
    nvcc = shutil.which("nvcc")
    toolkits = (os.environ.get("CUDA_HOME"), "/usr/local/cuda", nvcc and Path(nvcc).resolve().parents[1])
    folders = [os.environ.get("PATH"), *(str(Path(toolkit) / "bin") for toolkit in toolkits if toolkit)]
    return next(filter(None, (shutil.which(program, path=folder) for folder in folders)), program)


def run(plan: Sequence[Group], folder: Path, deadline: float, stop: threading.Event, done: Callable[[], None]) -> None:
    """Run the groups until the deadline (of time.monotonic) or until `stop` is set; call `done` after each stage."""
    for i, group in enumerate(plan):
        left = deadline - time.monotonic()
        if left <= 0 or stop.is_set():
            return
        share = _seconds(group) / sum(map(_seconds, plan[i:]))
        _run_group(group, folder, left * share, stop, done)


def _seconds(group: Group) -> float:
    return max((stage.seconds for stage in group), default=0.0)


def _run_group(group: Group, folder: Path, seconds: float, stop: threading.Event, done: Callable[[], None]) -> None:
    over = threading.Event()  # for the stages in the background

    def work(stage: Stage) -> None:
        program = stage.command[0]
        if shutil.which(program) is None:
            append(stage.records(folder), {"planned": [program]})
            append(stage.records(folder), {"item": program, "outcome": ABSENT, "detail": "it is not installed"})
            return
        supervise(stage, folder, seconds, over if stage.background else stop)

    titles = dict.fromkeys(stage.title for stage in group)
    print(f"at most {seconds:.0f} s: {'; '.join(titles)}", flush=True)
    threads = {stage.name: threading.Thread(target=work, args=(stage,), name=stage.name) for stage in group}
    for thread in threads.values():
        thread.start()
    foreground = [threads[stage.name] for stage in group if not stage.background]
    try:
        while any(thread.is_alive() for thread in foreground):
            before = sum(thread.is_alive() for thread in foreground)
            while before == sum(thread.is_alive() for thread in foreground):
                time.sleep(0.1)
            done()
    except BaseException:
        stop.set()
        raise
    finally:
        over.set()
        for thread in threads.values():
            thread.join()
        done()
