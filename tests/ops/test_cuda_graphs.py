"""Every op in a CUDA graph, on other streams and in two threads, where a GPU is: the checks of `make gpu-check`."""

from __future__ import annotations

import pytest
import torch

import mdnkernels
from benchmarks.gpu_check import execution
from benchmarks.gpu_check.items import Absent, Options
from tests.ops.table import CASES, Case


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("backend", ["native", "triton"])
@pytest.mark.parametrize("name", list(execution.items(Options())))
def test_it_lives_among_other_work_on_gpu(name: str, backend: str) -> None:
    try:
        execution.items(Options(backend=backend))[name]()
    except Absent as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_steps_that_a_gpu_would_capture_run_on_the_cpu(case: Case) -> None:
    with mdnkernels.use_backend("native"):
        assert all(value.isfinite().all() for value in execution.step(case.call(small=True)))


def test_two_threads_get_on_the_cpu_what_one_gets() -> None:
    execution.check_threads(Options("cpu", "native", small=True))
