"""topk_peaks beside its peers, in one run: CenterNet's decoding, the same compiled, the floor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peers import peers
from benchmarks.ways import COMPILED, POOL_AND_TOPK, max_pool_and_topk
from tests.ops.table import OPS, Call

LABELS, SIDE, K = 80, 128, 100


def heatmap() -> Tensor:
    """Draw scores like a trained detector's: a low, noisy background and some smooth bumps."""
    generator = torch.Generator().manual_seed(0)
    background = torch.rand(1, LABELS, SIDE, SIDE, generator=generator) * 0.02
    bumps = (torch.rand(1, LABELS, SIDE, SIDE, generator=generator) > 0.9998).float()
    return background + functional.avg_pool2d(functional.max_pool2d(bumps, 5, 1, 2), 5, 1, 2) * 0.9


@pytest.mark.parametrize("peer", ["native", "eager", COMPILED, POOL_AND_TOPK, "the same, compiled", "floor"])
def test_decode(benchmark, peer):
    benchmark.group = f"topk_peaks, 1 x {LABELS} x {SIDE} x {SIDE}, k = {K}"
    scores = heatmap()
    compiled = torch.compile(max_pool_and_topk, fullgraph=True)
    found = peers(Call(OPS["topk_peaks"], {"heatmap": scores, "k": K}))
    run = {**found, "the same, compiled": lambda: compiled(scores, K)}[peer]
    run()
    benchmark.pedantic(run, rounds=15, warmup_rounds=3)
