"""A row's times, its floor and its memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks import floors, ways
from benchmarks.alternating import alternating_times
from benchmarks.gpu_check import clock
from benchmarks.gpu_check.timing import copy_pairs
from benchmarks.memory import peak_bytes
from benchmarks.report.results import FLOOR, Result, spread_of
from benchmarks.report.rows import Row
from benchmarks.steps import Step, require_gradients
from mdnkernels import backends
from tests.ops.table import Call
from tests.ops.table.entry import size_of

FORWARD, BOTH = "forward", "forward + backward"
WARM_UP = 2  # turns: a virtual machine's first touches of memory are slow


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        quick: small shapes, and no torch.compile, which takes most of the time.
        seconds: for the ways of a row together.
        least, most: calls of each way.
    """

    quick: bool
    seconds: float = 2.0
    least: int = 3
    most: int = 40


QUICK = Effort(quick=True, seconds=0.05, least=1, most=3)


class Timing(NamedTuple):
    """One way's median on one row, the spread of its times (0 on a GPU, which keeps the median alone), its rounds."""

    milliseconds: float
    spread: float
    rounds: int


class Measurer:
    """Measures rows on one device.

    Attributes:
        left_out: what was not measured, and why, in words.
    """

    def __init__(self, device: str, effort: Effort) -> None:
        self.device, self.effort = device, effort
        self.left_out: list[str] = []

    def measure(self, row: Row) -> list[Result]:
        first = row.call(self.device, 0, self.effort.quick)
        trained = bool(first.entry.trained)
        count = 1 if self.device == "cpu" else clock.copies_for(size_of(*first.tensors.values()), self.device)
        calls = [first, *(row.call(self.device, seed, self.effort.quick) for seed in range(1, count))]
        require_gradients(calls)
        steps = self._steps(row, first)
        peaks = {name: peak_bytes(partial(run, first), self.device) for name, run in steps.items()}
        times = (self._cpu_times if self.device == "cpu" else self._gpu_times)(steps, calls)
        dtype = str(row.dtype).removeprefix("torch.")
        return [
            Result(
                row.part,
                row.name,
                dtype,
                BOTH if trained else FORWARD,
                row.size,
                name,
                *timing,
                floors.moved_bytes(first),
                floors.gradient_bytes(first),
                peaks.get(name),
            )
            for name, timing in times.items()
        ]

    def _steps(self, row: Row, call: Call) -> dict[str, Step]:
        """Return the ways of the row that are there, each of which has run once."""
        entry = call.entry
        steps = {}
        for name, way in ways.ways(entry, self.device).items():
            fused = way.backend != "eager" and way.function is entry.function
            if not (row.main or fused) or (way.compiled and self.effort.quick) or not way.suits(call.arguments):
                continue
            reason = backends.missing(entry.op, way.backend, self.device)
            if reason is not None:
                self.left_out.append(f"{row.name}, {name}: {reason}")
                continue
            if way.compiled:
                torch.compiler.reset()
            steps[name] = way.step(bool(entry.trained))
            steps[name](call)
        return steps

    def _cpu_times(self, steps: Mapping[str, Step], calls: Sequence[Call]) -> dict[str, Timing]:
        """Let all take turns on one call."""
        contestants: dict[str, Callable[[], object]] = {name: partial(run, calls[0]) for name, run in steps.items()}
        contestants[FLOOR] = floors.floor(calls[0])
        for run in contestants.values():
            for _ in range(WARM_UP):
                run()
        effort = self.effort
        times = alternating_times(contestants, seconds=effort.seconds, least=effort.least, most=effort.most)
        return {
            name: Timing(1e3 * statistics.median(taken), spread_of(taken), len(taken)) for name, taken in times.items()
        }

    def _gpu_times(self, steps: Mapping[str, Step], calls: Sequence[Call]) -> dict[str, Timing]:
        """Time each from cold caches, by events (`benchmarks/gpu_check/clock.py`)."""
        share = self.effort.seconds / (len(steps) + 1)

        def timing(run: Callable[[Any], object], inputs: Sequence[Any]) -> Timing:
            measured = clock.measure(run, inputs, self.device, share)
            return Timing(measured["ms"], 0.0, measured["rounds"])

        pairs = copy_pairs(floors.moved_bytes(calls[0]), self.device)
        copy = {FLOOR: timing(lambda pair: pair[1].copy_(pair[0]), pairs)}
        return {**{name: timing(run, calls) for name, run in steps.items()}, **copy}
