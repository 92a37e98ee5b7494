"""splat_gaussians beside its peers, in one run: `make benchmark`. The floor writes the map."""

from __future__ import annotations

import pytest
import torch

from benchmarks.peers import peers
from benchmarks.ways import COMPILED
from tests.ops.table import OPS, Case

CASE = Case(OPS["splat_gaussians"], "")


@pytest.mark.parametrize("peer", ["native", "eager", COMPILED, "torch.zeros", "floor"])
def test_targets(benchmark, peer):
    benchmark.group = "splat_gaussians, 8 x 80 x 128 x 128, 32 objects an image"
    run = {**peers(CASE.call()), "torch.zeros": lambda: torch.zeros(8, 80, 128, 128)}[peer]
    run()
    benchmark.pedantic(run, rounds=7, warmup_rounds=2)
