"""Sizes at which 32-bit arithmetic ends: sums over 1e8 positions, and offsets past 2^31 elements.

Tensors of many gigabytes are address space that is hardly touched: reading a page that nobody wrote costs no memory.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mdnkernels
from mdnkernels import native
from tests.ops.agreement import results
from tests.ops.table import REPRESENTATIVES, Draw, Variant
from tests.ops.table.mixture import FAMILIES

pytestmark = pytest.mark.skipif(native.problem is not None, reason=str(native.problem))

PAST = 2**31 + 2**20  # elements
POSITIONS = 10**8


@pytest.fixture(autouse=True)
def _native():
    with mdnkernels.use_backend("native"):
        yield
    mdnkernels.empty_cache()


def untouched(elements: int, dtype: torch.dtype) -> Tensor:
    """Return a vector that commits no memory until it is written; skip where the system gives no addresses for it."""
    try:
        return torch.empty(elements, dtype=dtype)
    except RuntimeError as error:  # RLIMIT_AS, or vm.overcommit_memory = 2
        pytest.skip(f"this system gives no {elements * dtype.itemsize / 2**30:.0f} GiB of addresses: {error}")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mean_over_a_hundred_million_positions_keeps_six_digits(family):
    """Four distinct positions, each repeated by a stride of 0. A float32 sum stops growing at 2^24 times its terms."""
    generator = torch.Generator().manual_seed(0)
    distinct = [torch.randn(4, 1, 1, generator=generator) for _ in range(4)]
    logits, loc, scale, target = (value.expand(-1, -1, POSITIONS // 4) for value in distinct)
    with torch.no_grad():
        mean = mdnkernels.mixture_nll(logits, loc, scale, target, family=family)
        total = mdnkernels.mixture_nll(logits, loc, scale, target, family=family, reduction="sum")
        with mdnkernels.use_backend("eager"):
            each = (value.double() for value in distinct)
            exact = mdnkernels.mixture_nll(*each, family=family).item()
    assert mean.item() == pytest.approx(exact, rel=1e-6)
    assert total.item() == pytest.approx(exact * POSITIONS, rel=1e-6)


def test_a_mean_weighted_by_tiny_and_large_weights_keeps_six_digits():
    """The divisor is such a sum too: 5e7 weights of 1e-3 beside one of 1e5."""
    weight = torch.full((1, 1), 1e-3).expand(1, POSITIONS // 2)
    rows = [torch.zeros(1, 1, 1).expand(1, 1, POSITIONS // 2) for _ in range(3)]
    with torch.no_grad():
        loss = mdnkernels.mixture_nll(*rows, torch.ones(1, 1, 1).expand_as(rows[0]), weight=weight, reduction="sum")
        one = mdnkernels.mixture_nll(*(row[..., :1].double() for row in rows), torch.ones(1, 1, 1).double()).item()
        mean = mdnkernels.mixture_nll(*rows, torch.ones(1, 1, 1).expand_as(rows[0]), weight=weight)
    assert loss.item() == pytest.approx(one * 1e-3 * POSITIONS / 2, rel=1e-6)
    assert mean.item() == pytest.approx(one, rel=1e-6)


@pytest.mark.slow
def test_the_focal_loss_of_a_hundred_million_cells_keeps_six_digits():
    """It copies what does not lie side by side: 800 MB."""
    logits = torch.tensor([[-2.0], [0.7], [-0.3], [1.9]]).expand(4, POSITIONS // 4)
    target = torch.tensor([[0.0], [0.4], [1.0], [0.9]]).expand(4, POSITIONS // 4)
    loss = mdnkernels.heatmap_focal_loss(logits, target)
    exact = mdnkernels.heatmap_focal_loss(logits[:, 0].double(), target[:, 0].double())
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)


# The axis of (B, K, H, W) whose neighbours lie far apart.
FAR = {"image": 0, "channel": 1, "row": 2, "column": 3}


def far(value: Tensor, axis: str) -> Tensor:
    """Return a (B, K, H, W) map whose last element lies past 2^31 elements; what is no map as it is."""
    if value.ndim != 4:
        return value
    axes = FAR[axis] if value.shape[FAR[axis]] > 1 else FAR["row"]
    stride, step = [0] * 4, 1
    for place in reversed(range(4)):
        if place != axes:
            stride[place], step = step, step * value.shape[place]
    stride[axes] = PAST // (value.shape[axes] - 1)
    last = sum((size - 1) * apart for size, apart in zip(value.shape, stride, strict=True))
    assert last >= 2**31
    return untouched(last + 1, value.dtype).as_strided(value.shape, stride).copy_(value)


@pytest.mark.parametrize("axis", FAR)
@pytest.mark.parametrize("variant", [one for one in REPRESENTATIVES if torch.float16 in one.entry.dtypes], ids=str)
def test_what_lies_past_two_to_the_31_is_read(variant: Variant, axis: str):
    """The same bits as from tensors without gaps, outputs and gradients."""
    layouts = (lambda value: far(value, axis), "contiguous")
    outcomes = [results(variant.draw(Draw(2, (5, 7), torch.float16, layout))) for layout in layouts]
    for actual, expected in zip(*outcomes, strict=True):
        assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


# One map of more than 2^31 cells. Indexed, next to nothing of it is read.
WIDTH = 2**16
HEIGHT = PAST // WIDTH


def test_an_index_may_exceed_two_to_the_31():
    place = HEIGHT * WIDTH - WIDTH // 2  # in the last row
    logits, loc = (untouched(HEIGHT * WIDTH, torch.float16).view(1, 1, HEIGHT, WIDTH) for _ in range(2))
    feature = loc
    loc[..., -1, WIDTH // 2 - 1 : WIDTH // 2 + 2] = torch.tensor([3.0, 5.0, 7.0], dtype=torch.float16)
    loc[..., -2, WIDTH // 2] = 9.0
    logits[..., -1, WIDTH // 2] = 0.0
    index = torch.tensor([[place, -1]])
    mode = mdnkernels.mixture_mode(logits, loc, index=index)
    assert mode.loc.flatten().tolist() == [5, 0]
    assert mode.component.flatten().tolist() == [0, -1]
    target = torch.full((1, 1, 2), 6.0, dtype=torch.float16)
    loss = mdnkernels.mixture_nll(logits, loc, logits, target, index=index, reduction="none")
    near = [value[..., -1:, WIDTH // 2 : WIDTH // 2 + 1] for value in (logits, loc, logits)]
    expected = mdnkernels.mixture_nll(*near, target, index=torch.tensor([[0, -1]]), reduction="none")
    assert torch.equal(loss, expected)
    patches = mdnkernels.gather_patches(feature, index)
    assert patches[0, 0].tolist()[3:] == [3, 5, 7, 0, 0, 0]
    assert patches[0, 0, 1] == 9
    assert (patches[0, 1] == 0).all()


@pytest.mark.slow
def test_maps_of_more_than_two_to_the_31_cells_are_scanned_to_their_end():
    """Reads 4 GiB of zeros, which are one page of memory, and writes as much for the patches' gradient and targets."""
    heatmap = untouched(HEIGHT * WIDTH, torch.float16).view(1, 1, HEIGHT, WIDTH)
    heatmap[..., -1, -2] = 2.0
    heatmap[..., 1, 1] = 1.0
    peaks = mdnkernels.topk_peaks(heatmap, 2)
    assert peaks.index[0].tolist() == [HEIGHT * WIDTH - 2, WIDTH + 1]
    loss = mdnkernels.heatmap_focal_loss(heatmap, heatmap.clamp(max=0.5))
    assert loss.isfinite()


@pytest.mark.slow
def test_targets_and_gradients_of_more_than_two_to_the_31_cells_are_written_to_their_end():
    """8 GiB of float32 targets, then 4 GiB of a half-precision gradient."""
    center = torch.tensor([[[WIDTH - 1, HEIGHT - 1], [0, 0]]])
    heatmap = mdnkernels.splat_gaussians(center, torch.tensor([[1, 0]]), torch.tensor([[0, 0]]), 1, (HEIGHT, WIDTH))
    assert heatmap[0, 0, -1, -1] == heatmap[0, 0, 0, 0] == 1
    assert 0 < heatmap[0, 0, -2, -2] < 1
    assert heatmap[0, 0, -3].count_nonzero() == 0
    del heatmap
    mdnkernels.empty_cache()
    feature = untouched(HEIGHT * WIDTH, torch.float16).view(1, 1, HEIGHT, WIDTH).requires_grad_()
    patches = mdnkernels.gather_patches(feature, torch.tensor([[HEIGHT * WIDTH - 1, 0]]))
    (gradient,) = torch.autograd.grad(patches.sum(), feature)
    assert gradient[0, 0, -2:, -2:].sum() == gradient[0, 0, :2, :2].sum() == 4
    assert gradient[0, 0, HEIGHT // 2].count_nonzero() == 0
