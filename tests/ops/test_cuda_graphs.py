"""Every op in a CUDA graph, which refuses whatever waits for the device; `make gpu-check` runs it where a GPU is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import mdnkernels
from benchmarks.gpu_check import calls
from mdnkernels import backends

NAMES = list(calls("cpu", side=16, batch=1))


def step(function: Callable[[], Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """The result, and the gradients where there are some."""
    result = function()
    gradients = torch.autograd.grad(result.float().square().sum(), leaves) if leaves else ()
    return [result.detach(), *gradients]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("backend", ["native", "triton"])
@pytest.mark.parametrize("name", NAMES)
def test_a_replayed_graph_sees_new_inputs_on_gpu(name: str, backend: str) -> None:
    problem = backends.missing(name.split(",")[0], backend, "cuda")
    if problem is not None:
        pytest.skip(problem)
    function, leaves = calls("cuda", side=32, batch=2)[name]
    with mdnkernels.use_backend(backend):
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):  # what is made once, such as Triton's kernels, is made before the capture
            for _ in range(3):
                step(function, leaves)
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step(function, leaves)
        with torch.no_grad():
            for leaf in leaves:
                leaf.copy_(torch.randn_like(leaf))
        graph.replay()
        replayed = [value.clone() for value in captured]
        for value, expected in zip(replayed, step(function, leaves), strict=True):
            assert torch.equal(value, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", NAMES)
def test_nothing_waits_for_the_device_on_gpu(name: str) -> None:
    function, leaves = calls("cuda", side=32, batch=2)[name]
    step(function, leaves)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(function, leaves)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", NAMES)
def test_the_steps_that_a_gpu_would_capture_run_on_the_cpu(name: str) -> None:
    function, leaves = calls("cpu", side=32, batch=2)[name]
    assert all(value.isfinite().all() for value in step(function, leaves))
