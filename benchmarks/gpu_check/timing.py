"""The time and the memory of every op on one way to run it, beside a device copy of as many bytes.

The ways are "copy", the backends by name, "compile" (torch.compile of eager) and "max-autotune" (torch.compile with
that mode). The CUDA graphs of max-autotune are left out, because they would first copy the inputs to a place of their
own.

`--backend plain` takes copy, native, triton and eager in turn, row by row. `--backend compiled` takes the other two,
each for the main rows first. `--backend ahead` times nothing: it compiles the rows of "compile" into torch's cache on
disk while others use the GPU.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

import mdnkernels
from benchmarks.gpu_check import clock
from benchmarks.gpu_check.agreement import need
from benchmarks.gpu_check.items import Items, Options, name_of
from benchmarks.memory import peak_bytes
from benchmarks.steps import require_gradients, step
from tests.ops.table import CASES, Case
from tests.ops.table.entry import size_of

FORWARD, BOTH = "forward", "forward + backward"
PLAIN, COMPILED = ("copy", "native", "triton", "eager"), ("compile", "max-autotune")
COMPILE_OPTIONS: dict[str, dict[str, Any]] = {"compile": {}, "max-autotune": {"mode": "max-autotune-no-cudagraphs"}}
SECONDS = 0.12  # of measuring, each


Row = tuple[Case, torch.dtype, str]


def rows() -> tuple[list[Row], list[Row]]:
    """Return the main rows and the others.

    The main rows are every case in its first dtype with all its passes. The others are the other dtypes, then the
    forward pass alone of every case that has a backward pass.
    """
    main = [(case, case.of.dtypes[0]) for case in CASES]
    others = [(case, dtype) for case in CASES for dtype in case.of.dtypes[1:]]
    both = [[(case, dtype, BOTH if case.entry.trained else FORWARD) for case, dtype in some] for some in (main, others)]
    forward = [(case, dtype, FORWARD) for case, dtype in (*main, *others) if case.entry.trained]
    return both[0], [*both[1], *forward]


def items(options: Options) -> Items:
    parts = rows()
    if options.small:
        few = CASES[:1] if options.backend == "compiled" else CASES
        parts = tuple([row for row in part if row[0] in few and row[1] == torch.float32] for part in parts)
    if options.backend == "compiled":
        order = [(row, way) for part in parts for way in COMPILED for row in part]
    else:
        ways = ("compile",) if options.backend == "ahead" else PLAIN
        order = [(row, way) for part in parts for row in part for way in ways]
    return {
        f"{case}, {name_of(dtype)}, {passes}, {way}": partial(time_row, case, dtype, passes, way, options)
        for (case, dtype, passes), way in order
    }


def time_row(case: Case, dtype: torch.dtype, passes: str, way: str, options: Options) -> dict[str, Any]:
    """Measure one number of the table, and return it with all that names it."""
    backend = way if way in ("native", "triton") else "eager"
    need(case, Options(options.device, backend))
    device = options.device
    first = case.call(device, dtype, options.small)
    moved = case.entry.moved(first.arguments)
    moved_bytes = moved.both if passes == BOTH else moved.forward
    seconds = SECONDS if device == "cuda" else 0.0
    row = {"case": str(case), "dtype": name_of(dtype), "passes": passes, "way": way, "bytes": moved_bytes}
    if way == "copy":
        pairs = copy_pairs(moved_bytes, device)
        result = clock.measure(lambda pair: pair[1].copy_(pair[0]), pairs, device, seconds)
        return {**row, **result, "peak_bytes": None}
    count = 1 if options.backend == "ahead" else clock.copies_for(size_of(*first.tensors.values()), device)
    calls = [first, *(case.call(device, dtype, options.small, seed) for seed in range(1, count))]
    function = case.entry.function
    if way in COMPILED:
        torch.compiler.reset()
        chosen = {"backend": "eager"} if options.small else COMPILE_OPTIONS[way]
        function = torch.compile(function, fullgraph=True, dynamic=False, **chosen)
    if passes == BOTH:
        require_gradients(calls)
    run = step(function, passes == BOTH)
    with mdnkernels.use_backend(backend):
        if options.backend == "ahead":
            run(first)
            return row
        result = clock.measure(run, calls, device, seconds)
        peak = peak_bytes(partial(run, first), device)
    return {**row, **result, "peak_bytes": peak}


def copy_pairs(moved_bytes: int, device: str) -> list[tuple[Tensor, Tensor]]:
    """Return sources and destinations of copies that move `moved_bytes` each, reads and writes together."""
    size = max(moved_bytes // 2, 1)
    return [
        (torch.ones(size, dtype=torch.uint8, device=device), torch.zeros(size, dtype=torch.uint8, device=device))
        for _ in range(clock.copies_for(2 * size, device))
    ]
