"""splat_gaussians beside its peers: the eager backend, torch.compile of it, and the floor, which is writing the map."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import mdnkernels
from tests.ops.table import OPS, Case

CALL = Case(OPS["splat_gaussians"], "").call()
MAP = torch.ones(8, 80, 128, 128)


def splat() -> Tensor:
    return mdnkernels.splat_gaussians(**CALL.arguments)


def on(backend: str, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with mdnkernels.use_backend(backend):
            return function()

    return run


PEERS = {
    "native": on("native", splat),
    "eager": on("eager", splat),
    "torch.compile(eager)": on("eager", torch.compile(splat, fullgraph=True)),
    "torch.zeros": lambda: torch.zeros_like(MAP),
    "floor (zeros, memory touched)": MAP.zero_,
}


@pytest.mark.parametrize("peer", PEERS)
def test_targets(benchmark, peer):
    benchmark.group = "splat_gaussians, 8 x 80 x 128 x 128, 32 objects an image"
    PEERS[peer]()
    benchmark.pedantic(PEERS[peer], rounds=7, warmup_rounds=2)
