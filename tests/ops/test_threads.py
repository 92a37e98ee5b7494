"""Every op, forward and backward, from any number of threads: the same bits, and no crash."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import mdnkernels
from tests.ops.agreement import results
from tests.ops.table import REPRESENTATIVES, Call, Variant
from tests.processes import python

# More than one block of each kernel, of which the last is not whole.
LARGE = {"size": (61, 67), "batch": 3}


def outputs_and_gradients(variant: Variant, arguments: dict[str, Any] | None = None) -> list[Tensor]:
    outputs, gradients = results(Call(variant.entry, variant.leaves() if arguments is None else arguments))
    return [*outputs, *gradients]


def same_bits(actual: list[Tensor], expected: list[Tensor]) -> bool:
    return all(
        a.shape == e.shape and a.dtype == e.dtype and torch.equal(a, e) for a, e in zip(actual, expected, strict=True)
    )


def close(actual: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.allclose(a, e, rtol=1e-5, atol=1e-6) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("variant", REPRESENTATIVES, ids=str)
def test_same_bits_for_any_number_of_threads(variant: Variant, dtype: torch.dtype):
    arguments = variant.leaves(**LARGE, dtype=dtype)
    before, outcomes = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            with mdnkernels.use_backend("native"):
                outcomes.append(outputs_and_gradients(variant, arguments))
    finally:
        torch.set_num_threads(before)
    assert all(same_bits(other, outcomes[0]) for other in outcomes[1:])


@pytest.mark.parametrize("backend", ["native", "eager"])
def test_threads_that_call_different_ops_at_once_get_what_one_thread_gets(backend: str):
    with mdnkernels.use_backend(backend):
        # Torch's own sums may be cut elsewhere in another thread: bits are asked of native alone.
        same = same_bits if backend == "native" else close
        expected = {one: outputs_and_gradients(one, one.leaves((31, 37))) for one in REPRESENTATIVES}

        def wrong(turn: int) -> str | None:
            one = REPRESENTATIVES[turn % len(REPRESENTATIVES)]
            result = outputs_and_gradients(one, one.leaves((31, 37)))
            return None if same(result, expected[one]) else str(one)

        with ThreadPoolExecutor(5) as pool:
            assert [name for name in pool.map(wrong, range(8 * len(REPRESENTATIVES))) if name] == []


def _call_all(queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)  # torch's own thread pool does not outlive a fork
    for variant in REPRESENTATIVES:
        # Lists, not tensors, which would travel in shared memory that ends with this process.
        queue.put([value.detach().flatten().tolist() for value in outputs_and_gradients(variant)])


def call_in_a_fork() -> None:
    expected = [outputs_and_gradients(variant) for variant in REPRESENTATIVES]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_call_all, args=(queue,))
    child.start()
    for variant, values in zip(REPRESENTATIVES, expected, strict=True):
        assert queue.get(timeout=60) == [value.detach().flatten().tolist() for value in values], str(variant)
    child.join(60)
    assert child.exitcode == 0


def test_a_forked_process_can_go_on_calling_every_op():
    """In a process of its own: torch's autograd refuses to go on in a fork of one that had it use threads."""
    script = "from tests.ops.test_threads import call_in_a_fork; call_in_a_fork()"
    done = python(script)
    assert done.returncode == 0, done.stderr
