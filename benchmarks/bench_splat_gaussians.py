"""splat_gaussians beside its peers: the eager backend, torch.compile of it, and the floor, which is writing the map."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import mdnkernels

BATCH, LABELS, SIDE, OBJECTS = 8, 80, 128, 32


def objects() -> tuple[Tensor, Tensor, Tensor]:
    """Center, radius and label of objects of all sizes, as COCO's on a map of stride 4."""
    generator = torch.Generator().manual_seed(0)
    center = torch.randint(0, SIDE, (BATCH, OBJECTS, 2), generator=generator)
    radius = torch.randint(0, 16, (BATCH, OBJECTS), generator=generator)
    return center, radius, torch.randint(0, LABELS, (BATCH, OBJECTS), generator=generator)


def splat() -> Tensor:
    return mdnkernels.splat_gaussians(*INPUTS, LABELS, (SIDE, SIDE))


INPUTS = objects()
MAP = torch.ones(BATCH, LABELS, SIDE, SIDE)


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
    benchmark.group = f"splat_gaussians, {BATCH} x {LABELS} x {SIDE} x {SIDE}, {OBJECTS} objects an image"
    PEERS[peer]()
    benchmark.pedantic(PEERS[peer], rounds=7, warmup_rounds=2)
