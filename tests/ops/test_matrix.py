"""Every op on every backend: shapes x layouts x dtypes x variants, forward and backward, against eager in float64."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from tests.ops.agreement import assert_agree, expected_results, moved, results
from tests.ops.backends import BACKENDS, device_of, on, skip_where_missing
from tests.ops.table import OPS, Call, Draw, Entry

# B, H, W.
SHAPES = {
    "one_cell": (1, 1, 1),
    "odd": (2, 5, 7),
    "one_row": (1, 1, 70),
    "one_column": (3, 67, 1),
    "aligned": (2, 8, 32),
    "large": (1, 33, 65),
    "empty": (0, 5, 7),
}


@dataclass(frozen=True)
class Case:
    """One call: what it is made of; the numbers follow from the names, the same on every backend."""

    op: str
    variant: str
    shape: str = "odd"
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"

    def __str__(self) -> str:
        return f"{self.op}-{self.variant}-{self.shape}-{str(self.dtype)[6:]}-{self.layout}"

    @property
    def entry(self) -> Entry:
        return OPS[self.op]

    def call(self) -> Call:
        batch, *positions = SHAPES[self.shape]
        seed = zlib.crc32(str(replace(self, layout="contiguous")).encode())
        draw = Draw(batch, tuple(positions), self.dtype, self.layout, seed=seed)
        return self.entry.draw(draw, **self.entry.variants[self.variant])


def cases() -> Iterator[Case]:
    """Give the ordinary variant in every layout of every shape, in float32, and of every dtype, at an odd shape; the
    others in every shape and dtype, with the layouts in turn, two at a time."""
    for op, entry in OPS.items():
        for i, variant in enumerate(entry.variants):
            forms = [{"shape": shape} for shape in SHAPES] + [{"dtype": dtype} for dtype in entry.dtypes[1:]]
            for j, form in enumerate(forms):
                turn = (i + j) % len(entry.layouts)
                for layout in entry.layouts if i == 0 else sorted({entry.layouts[turn], entry.layouts[turn - 1]}):
                    yield Case(op, variant, layout=layout, **form)


@lru_cache(maxsize=4)
def expected_of(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    return expected_results(case.call())


# Backends innermost: they share the expectation.
@pytest.mark.parametrize(("case", "backend"), [(case, backend) for case in cases() for backend in BACKENDS], ids=str)
def test_every_op_agrees_with_eager_in_float64(case, backend):
    skip_where_missing(case.op, backend)
    call = case.call().changed(lambda value: moved(value, device_of(backend)))
    with on(backend):
        outputs, gradients = results(call)
    assert_agree((outputs, gradients), expected_of(case), case.entry.result_dtype(case.dtype))
    for gradient, name in zip(gradients, call.differentiable, strict=bool(gradients)):
        assert gradient.dtype == call.arguments[name].dtype


@pytest.mark.parametrize(
    "seeds", [range(1, 5), pytest.param(range(5, 20), marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize(
    "case",
    [
        Case(op, variant, shape, layout=layout)
        for op, entry in OPS.items()
        for variant in entry.variants
        for shape, layout in (("odd", "contiguous"), ("large", entry.layouts[1]))
    ],
    ids=str,
)
def test_cuda_kernels_give_the_same_bits_in_every_order_of_threads_and_blocks(case, seeds):
    skip_where_missing(case.op, "cuda_on_cpu")
    call, outcomes = case.call(), []
    for seed in (0, *seeds):
        with on("cuda_on_cpu", seed):
            outputs, gradients = results(call)
        outcomes.append([value.flatten().view(torch.uint8) for value in (*outputs, *gradients)])
    for outcome in outcomes[1:]:
        for value, first in zip(outcome, outcomes[0], strict=True):
            assert torch.equal(value, first)
