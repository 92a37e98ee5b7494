"""The deformable convolution of a CPU beside torchvision's operator: `pytest benchmarks/bench_deformable.py -s`.

The three sizes of which DLA-34 has most at 512 x 512, batch 1, float32; a step is forward and all gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from benchmarks.alternating import alternating_medians
from models.deformable import deformable_convolution

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

    if not train:
        return {"ours": ours, "torchvision": theirs}
    return {
        "ours": lambda: torch.autograd.grad(ours().sum(), leaves),
        "torchvision": lambda: torch.autograd.grad(theirs().sum(), leaves),
    }


@pytest.mark.parametrize("train", [False, True], ids=["forward", "step"])
@pytest.mark.parametrize(("in_dim", "out_dim", "side"), SIZES)
def test_against_torchvision(in_dim: int, out_dim: int, side: int, train: bool) -> None:
    medians = alternating_medians(peers(in_dim, out_dim, side, train), rounds=8, warmup=2)
    ours, theirs = medians.values()
    print(f"\nours {ours * 1e3:.1f} ms, torchvision {theirs * 1e3:.1f} ms: {theirs / ours:.1f} x", end="")
    assert theirs / ours >= 2
