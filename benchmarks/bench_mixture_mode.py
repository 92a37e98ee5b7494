"""mixture_mode beside its peers, in one run: `make benchmark`.

Peers: the eager backend, torch.compile of it, and the floor, which is copying as many bytes as the op must read and
write: the logits, one component's loc and scale, and the modes, into memory already touched.

Which cells choose which component matters: memory is read a cache line, 16 cells, at a time. "smooth" logits change
over some twenty cells, as a network's do around objects of that size: then a line holds 1.6 components on average, and
that many times the floor's loc and scale must be read. "noise" chooses cell by cell: nearly every line of every
component. The floor's bytes stay in a third-level cache of 32 MB from one round to the next.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import mdnkernels
from benchmarks.alternating import alternating_medians

BATCH, COMPONENTS, DIMS, SCALES, SIDE = 8, 3, 34, 2, 128
CELL = 16  # over how many cells smooth logits change
CASES = ["smooth", "noise", "smooth, channels_last", "smooth, bfloat16"]


class Inputs:
    def __init__(self, case: str, select: str = "weight") -> None:
        generator = torch.Generator().manual_seed(0)

        def normal(channels: int, side: int = SIDE) -> Tensor:
            return torch.randn(BATCH, channels, side, side, generator=generator)

        logits = normal(COMPONENTS)
        if case != "noise":
            logits = functional.interpolate(normal(COMPONENTS, SIDE // CELL), (SIDE, SIDE), mode="bicubic")
        values = [logits, normal(COMPONENTS * DIMS), normal(COMPONENTS * SCALES)]
        if case.endswith("bfloat16"):
            values = [value.bfloat16() for value in values]
        if case.endswith("channels_last"):
            values = [value.contiguous(memory_format=torch.channels_last) for value in values]
        self.values, self.select = values, select

    def mode(self) -> mdnkernels.MixtureMode:
        return mdnkernels.mixture_mode(*self.values, select=self.select)


def on(backend: str, mode: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with mdnkernels.use_backend(backend):
            return mode()

    return run


def floor(inputs: Inputs) -> Callable[[], object]:
    logits, loc, scale = (value.flatten(2) for value in inputs.values)
    sources = [value.flatten(1)[:, : value[0].numel() // COMPONENTS].contiguous() for value in (loc, scale)]
    outputs = [torch.zeros_like(source) for source in sources]
    component = torch.zeros(BATCH, SIDE * SIDE, dtype=torch.int64)
    weight = torch.zeros(BATCH, SIDE * SIDE, dtype=logits.dtype)
    read = torch.zeros(BATCH, SIDE * SIDE, dtype=logits.dtype)

    def run() -> object:
        for output, source in zip(outputs, sources, strict=True):
            output.copy_(source)
        torch.sum(logits, 1, out=read)
        component.zero_()
        weight.zero_()
        return outputs

    return run


PEERS: dict[str, Callable[[Inputs], Callable[[], object]]] = {
    "native": lambda inputs: on("native", inputs.mode),
    "eager": lambda inputs: on("eager", inputs.mode),
    "torch.compile(eager)": lambda inputs: on("eager", torch.compile(inputs.mode, fullgraph=True)),
    "floor (copy)": floor,
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(
    ("case", "select"), [*((case, "weight") for case in CASES), ("smooth", "density"), ("smooth", "mean")]
)
def test_mode_of_pose_maps(benchmark, case, select, peer):
    benchmark.group = f'mixture_mode, {BATCH} x (3, 102, 6) x {SIDE} x {SIDE}, {case}, select="{select}"'
    run = PEERS[peer](Inputs(case, select))
    run()
    benchmark.pedantic(run, rounds=15, warmup_rounds=3)


def test_native_beside_its_floor_and_compiled_eager(benchmark):
    """Alternating them, so that a busy moment of the machine meets all."""
    inputs = Inputs("smooth")
    contestants = {name: PEERS[name](inputs) for name in ("native", "torch.compile(eager)", "floor (copy)")}
    medians = alternating_medians(contestants, rounds=30, warmup=5)
    benchmark.extra_info.update(medians)
    benchmark.group = "mixture_mode, pose: the ratios that are asked for"
    benchmark.pedantic(contestants["native"], rounds=3)
    native, compiled, least = medians.values()
    print(
        f"\nnative {native * 1e3:.2f} ms, {native / least:.2f} x the floor, compiled {compiled / native:.1f} x native"
    )
    assert compiled > native
