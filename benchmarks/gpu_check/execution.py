"""Checks of one backend's ops among other work: in CUDA graphs, on other streams, and called from two threads.

Every check compares bits, because these backends give the same bits every time.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

import mdnkernels
from benchmarks.gpu_check.agreement import need
from benchmarks.gpu_check.items import Absent, Items, Options
from tests.ops.agreement import results
from tests.ops.table import CASES, Call, Case

PAUSE = 50_000_000  # cycles, about 25 ms: longer than the host takes to launch a call
ROUNDS = 20


def items(options: Options) -> Items:
    checks = {}
    for case in CASES:
        checks[f"{case}: a replayed CUDA graph sees new inputs"] = partial(check_graph, case, options)
        checks[f"{case}: nothing waits for the device"] = partial(check_waits, case, options)
        checks[f"{case}: all happens on the current stream"] = partial(check_stream, case, options)
    checks["two threads at once, each on a stream of its own"] = partial(check_threads, options)
    return checks


def step(call: Call) -> list[Tensor]:
    """Run a call forward and backward, and return its outputs and gradients."""
    outputs, gradients = results(call)
    return [value.detach() for value in (*outputs, *gradients)]


def drawn(case: Case, options: Options, seed: int = 0) -> Call:
    return case.call(options.device, small=True, seed=seed)


def need_gpu(case: Case, options: Options) -> None:
    if options.device == "cpu":
        raise Absent("a CPU has neither CUDA graphs nor streams")
    need(case, options)


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    for i, (value, other) in enumerate(zip(actual, expected, strict=True)):
        assert torch.equal(value, other), f"result {i} differs: {(value != other).sum().item()} of {value.numel()}"


def check_graph(case: Case, options: Options) -> None:
    """Replay a captured call with new inputs, which the graph must read anew.

    The capture fails at whatever waits for the device.
    """
    need_gpu(case, options)
    call, other = drawn(case, options), drawn(case, options, seed=1)
    with mdnkernels.use_backend(options.backend):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # what is made once, such as Triton's kernels, is made before the capture
            for _ in range(3):
                step(call)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step(call)
        for value, new in zip(call.tensors.values(), other.tensors.values(), strict=True):
            value.copy_(new)
        graph.replay()
        replayed = [value.clone() for value in captured]
        assert_same(replayed, step(other))


def check_waits(case: Case, options: Options) -> None:
    need_gpu(case, options)
    call = drawn(case, options)
    with mdnkernels.use_backend(options.backend):
        step(call)
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(call)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def check_stream(case: Case, options: Options) -> None:
    """Call the op on a side stream whose inputs appear only behind a pause of that stream.

    A kernel on any other stream would read what was there before. A result on any other stream would be read before it
    is there.
    """
    need_gpu(case, options)
    call, other = drawn(case, options), drawn(case, options, seed=1)
    with mdnkernels.use_backend(options.backend):
        expected = step(other)
        step(call)
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda._sleep(PAUSE)
            for value, new in zip(call.tensors.values(), other.tensors.values(), strict=True):
                value.copy_(new)
            actual = [value.clone() for value in step(call)]
        torch.cuda.synchronize()
        assert_same(actual, expected)


def check_threads(options: Options) -> None:
    """Run all ops from two threads in opposite orders, and compare each result with the result of one thread."""
    for case in CASES:
        need(case, options)
    on_gpu = options.device == "cuda"
    with mdnkernels.use_backend(options.backend):
        calls = [drawn(case, options) for case in CASES]
        expected = [step(call) for call in calls]
        if on_gpu:
            torch.cuda.synchronize()

        def run_all(order: int) -> None:
            stream = torch.cuda.Stream() if on_gpu else None
            for _ in range(ROUNDS if on_gpu else 1):
                for call, results_ in list(zip(calls, expected, strict=True))[::order]:
                    with torch.cuda.stream(stream) if on_gpu else nullcontext():
                        actual = step(call)
                        assert_same(actual, results_)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(run_all, (1, -1)))
