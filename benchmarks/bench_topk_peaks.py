"""topk_peaks beside its peers: CenterNet's decoding by max_pool2d and topk, the same compiled, and the floor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import mdnkernels

LABELS, SIDE, K = 80, 128, 100


def centernet(heatmap: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    kept = heatmap * (functional.max_pool2d(heatmap, 3, stride=1, padding=1) == heatmap)
    score, cell = kept.flatten(1).topk(K)
    return score, cell // (SIDE * SIDE), cell % (SIDE * SIDE)


def heatmap() -> Tensor:
    """Draw scores like a trained detector's: a low, noisy background and some smooth bumps."""
    generator = torch.Generator().manual_seed(0)
    background = torch.rand(1, LABELS, SIDE, SIDE, generator=generator) * 0.02
    bumps = (torch.rand(1, LABELS, SIDE, SIDE, generator=generator) > 0.9998).float()
    return background + functional.avg_pool2d(functional.max_pool2d(bumps, 5, 1, 2), 5, 1, 2) * 0.9


def native(values: Tensor) -> object:
    with mdnkernels.use_backend("native"):
        return mdnkernels.topk_peaks(values, K)


def eager(values: Tensor) -> object:
    with mdnkernels.use_backend("eager"):
        return mdnkernels.topk_peaks(values, K)


PEERS = {
    "native": native,
    "eager": eager,
    "max_pool2d + topk": centernet,
    "torch.compile(max_pool2d + topk)": torch.compile(centernet, fullgraph=True),
    "floor (one read)": lambda values: values.sum(),
}


@pytest.mark.parametrize("peer", PEERS)
def test_decode(benchmark, peer):
    benchmark.group = f"topk_peaks, 1 x {LABELS} x {SIDE} x {SIDE}, k = {K}"
    values = heatmap()
    PEERS[peer](values)
    benchmark.pedantic(PEERS[peer], (values,), rounds=15, warmup_rounds=3)
