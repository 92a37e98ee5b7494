"""mixture_mode beside its peers, in one run: `make benchmark`.

Peers: the eager backend, torch.compile of it, and two floors, which copy as many bytes as the op must read and write
into memory already touched: the logits, one component's loc and scale, and the modes. Memory is read a cache line, 16
cells, at a time, and which cells choose which component decides how many lines of loc and scale that is: "smooth"
logits change over some twenty cells, as a network's do around objects of that size, and a line holds 1.6 components on
average; "noise" chooses cell by cell, nearly every line of every component. "floor (lines)" reads as many bytes as
there are in these lines. Both floors take their sources from all of loc in turn, so that they lie where the op's do:
not in a cache that the whole of loc does not fit into.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import mdnkernels
from benchmarks import PAPER
from benchmarks.alternating import alternating_medians
from benchmarks.floors import mode_floor
from tests.ops.table import OPS, Case

# Options, dtypes and layouts in the place of the table's: there the logits are smooth.
CASES: dict[str, dict[str, Any]] = {
    "smooth": {},
    "noise": {"change": None},
    "smooth, channels_last": {"layout": "channels_last"},
    "smooth, bfloat16": {"dtype": torch.bfloat16},
}


class Inputs:
    def __init__(self, case: str, select: str = "weight") -> None:
        self.call = Case(OPS["mixture_mode"], "pose").call(**CASES[case])
        self.values, self.select = list(self.call.tensors.values()), select

    def mode(self) -> mdnkernels.MixtureMode:
        return mdnkernels.mixture_mode(*self.values, select=self.select, **PAPER)


def on(backend: str, mode: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with mdnkernels.use_backend(backend):
            return mode()

    return run


def lines_a_mode(inputs: Inputs) -> float:
    """Return how many components a cache line of a planar map holds on average: the lines read for one of the modes."""
    logits = inputs.values[0]
    cells = 64 // logits.element_size()
    chosen = logits.argmax(1).flatten().view(-1, cells)
    return sum((chosen == m).any(1).float().mean().item() for m in range(logits.shape[1]))


PEERS: dict[str, Callable[[Inputs], Callable[[], object]]] = {
    "native": lambda inputs: on("native", inputs.mode),
    "eager": lambda inputs: on("eager", inputs.mode),
    "torch.compile(eager)": lambda inputs: on("eager", torch.compile(inputs.mode, fullgraph=True)),
    "floor (copy)": lambda inputs: mode_floor(inputs.call),
    "floor (lines)": lambda inputs: mode_floor(inputs.call, lines_a_mode(inputs)),
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(
    ("case", "select"), [*((case, "weight") for case in CASES), ("smooth", "density"), ("smooth", "mean")]
)
def test_mode_of_pose_maps(benchmark, case, select, peer):
    benchmark.group = f'mixture_mode, 8 x (3, 102, 6) x 128 x 128, {case}, select="{select}"'
    run = PEERS[peer](Inputs(case, select))
    run()
    benchmark.pedantic(run, rounds=15, warmup_rounds=3)


@pytest.mark.parametrize("case", ["smooth", "noise"])
def test_native_beside_its_floors_and_compiled_eager(benchmark, case):
    """Alternate them, so that a busy moment of the machine meets all."""
    inputs = Inputs(case)
    contestants = {name: PEERS[name](inputs) for name in PEERS if name != "eager"}
    medians = alternating_medians(contestants, rounds=30, warmup=5)
    benchmark.extra_info.update(medians)
    benchmark.group = "mixture_mode, pose: the ratios that are asked for"
    benchmark.pedantic(contestants["native"], rounds=3)
    native, compiled, least, lines = medians.values()
    print(
        f"\n{case}, {lines_a_mode(inputs):.2f} components a line: native {native * 1e3:.2f} ms, "
        f"{native / least:.2f} x the floor of the modes' bytes, {native / lines:.2f} x that of their lines, "
        f"compiled {compiled / native:.1f} x native"
    )
    assert compiled > native
