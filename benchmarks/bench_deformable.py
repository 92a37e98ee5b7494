"""The deformable convolution of a CPU and torchvision's: `pytest benchmarks/bench_deformable.py --benchmark-only -s`.

The sizes are the three of which DLA-34 has most at 512 x 512, batch 1, float32. A step is forward and all gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from benchmarks.alternating import alternating_medians
from mdnkernels.models.deformable import deformable_convolution

SIZES = [(64, 64, 128), (128, 64, 64), (256, 256, 32)]


def peers(in_dim: int, out_dim: int, side: int, train: bool) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    x, offset, mask = (
        torch.randn(1, channels, side, side).contiguous(memory_format=torch.channels_last)
        for channels in (in_dim, 18, 9)
    )
    weight, bias = torch.randn(out_dim, in_dim, 3, 3) / in_dim, torch.randn(out_dim)
    leaves = [value.requires_grad_(train) for value in (x, offset, mask.sigmoid_(), weight, bias)]

    def ours() -> Tensor:
        return deformable_convolution(*leaves)

    def theirs() -> Tensor:
        return deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)

    def timed(function: Callable[[], Tensor]) -> Callable[[], object]:
        if train:
            return lambda: torch.autograd.grad(function().sum(), leaves)
        return torch.no_grad()(function)

    return {"ours": timed(ours), "torchvision": timed(theirs)}


@pytest.mark.parametrize("train", [False, True], ids=["forward", "step"])
@pytest.mark.parametrize(("in_dim", "out_dim", "side"), SIZES)
def test_against_torchvision(benchmark, in_dim: int, out_dim: int, side: int, train: bool) -> None:
    benchmark.group = (
        f"deformable convolution, {in_dim} to {out_dim} at {side} x {side}, {'step' if train else 'forward'}"
    )
    runs = peers(in_dim, out_dim, side, train)
    medians = alternating_medians(runs, rounds=8, warmup=2)
    benchmark.extra_info.update(medians)
    benchmark.pedantic(runs["ours"], rounds=3)
    ours, theirs = medians.values()
    print(f"\nours {ours * 1e3:.1f} ms, torchvision {theirs * 1e3:.1f} ms: {theirs / ours:.1f} x", end="")
    assert theirs / ours >= 2
