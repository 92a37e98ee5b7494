"""Compute how long each op should take on a GPU, and what it waits for.

Each case runs on a part of its batch: tests/cuda_on_cpu counts the sectors, the machine the instructions of some
blocks, and both are scaled to the whole. A launch takes as long as the busiest of the things that `times` lists, and
never less than LAUNCH; an op takes as long as its launches one after another. Not computed are the latency of memory,
what caches keep from one launch to the next, and what does not overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

import mdnkernels
from benchmarks import PAPER
from benchmarks.sass.launches import CompiledLaunch, watching
from tests import cuda_on_cpu
from tests.native import ptxas

LAUNCH = 3e-6  # of a kernel with little to do, from one launch to the next: assumed
LATENCY = 4  # cycles from an instruction to one that needs its result, in a thread that does nothing else


@dataclass(frozen=True)
class Gpu:
    """Of a multiprocessor in one cycle, by the CUDA C++ Programming Guide's table of throughputs."""

    name: str
    architecture: str
    multiprocessors: int
    clock: float  # Hz, boost
    bandwidth: float  # bytes a second
    fp32: int  # lanes
    fp64: int
    integer: int = 64
    special: int = 16
    schedulers: int = 4


H100 = Gpu("H100", "sm_90", 132, 1.755e9, 3.35e12, fp32=128, fp64=64)
A100 = Gpu("A100", "sm_80", 108, 1.41e9, 2.0e12, fp32=64, fp64=32)
GPUS = H100, A100


@dataclass(frozen=True)
class Case:
    """An op at one shape, a row of the table.

    `make(n)` gives the call on an n-th of the batch, which is run once. `each`: what the table counts per, and how many
    there are.
    """

    name: str
    each: str
    count: int
    part: int
    make: Callable[[int], Callable[[], object]]
    blocks: int = 12


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _mixture(
    batch: int, m: int, c: int, s: int, groups: int, side: int, dtype: torch.dtype = torch.float32, pairs: bool = False
):
    def make(part: int) -> Callable[[], object]:
        where = (batch // part, side, side) if side else (batch // part,)
        values = [_normal(where[0], k, *where[1:]).to(dtype) for k in (m, m * c, m * s, c)]
        tril = _normal(where[0], m * c // 2, *where[1:]).to(dtype).requires_grad_() if pairs else None
        for value in values[:3]:
            value.requires_grad_()
        mask = torch.ones(where[0], groups, *where[1:], dtype=torch.bool) if groups else None
        correlation = {"tril": tril, "block_size": 2} if pairs else {}
        return lambda: mdnkernels.mixture_nll(*values, mask=mask, **correlation, **PAPER)

    return make


def _mode(part: int) -> Callable[[], object]:
    coarse = _normal(8 // part, 3, 8, 8)
    logits = torch.nn.functional.interpolate(coarse, (128, 128), mode="bicubic")
    values = logits, _normal(8 // part, 102, 128, 128), _normal(8 // part, 6, 128, 128)
    return lambda: mdnkernels.mixture_mode(*values, **PAPER)


def _peaks(part: int) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    background = torch.rand(1, 80, 128, 128, generator=generator) * 0.02
    bumps = (torch.rand(1, 80, 128, 128, generator=generator) > 0.9998).float()
    smooth = torch.nn.functional.avg_pool2d(torch.nn.functional.max_pool2d(bumps, 5, 1, 2), 5, 1, 2)
    return lambda: mdnkernels.topk_peaks(background + 0.9 * smooth, 100)


def _focal(part: int) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    shape = 8 // part, 80, 128, 128
    target = (torch.rand(shape, generator=generator) * 20 - 19).clamp(min=0)
    target[torch.rand(shape, generator=generator) < 2e-4] = 1
    logits = (torch.randn(shape, generator=generator) - 2).requires_grad_()
    return lambda: mdnkernels.heatmap_focal_loss(logits, target)


def _center_focal(part: int) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(8 // part, 80, 128, 128, generator=generator) - 2).requires_grad_()
    center = torch.randint(0, 128, (8 // part, 32, 2), generator=generator)
    radius = torch.randint(0, 16, (8 // part, 32), generator=generator)
    label = torch.randint(0, 80, (8 // part, 32), generator=generator)
    return lambda: mdnkernels.center_focal_loss(logits, center, radius, label)


def _splat(part: int) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    center = torch.randint(0, 128, (8 // part, 32, 2), generator=generator)
    radius = torch.randint(0, 16, (8 // part, 32), generator=generator)
    label = torch.randint(0, 80, (8 // part, 32), generator=generator)
    return lambda: mdnkernels.splat_gaussians(center, radius, label, 80, (128, 128))


def _patches(backward: bool) -> Callable[[int], Callable[[], object]]:
    def make(part: int) -> Callable[[], object]:
        feature = _normal(8 // part, 256, 128, 128).contiguous(memory_format=torch.channels_last)
        index = torch.randint(128 * 128, (8 // part, 32), generator=torch.Generator().manual_seed(0))
        if not backward:
            return lambda: mdnkernels.gather_patches(feature, index)
        patches = mdnkernels.gather_patches(feature.requires_grad_(), index)
        return lambda: torch.autograd.grad(patches, feature, torch.ones_like(patches))

    return make


CASES = (
    Case("`mixture_nll`, pose, float32: 8 x 128 x 128, M = 3, C = 34, S = 2, 17 masks", "position", 131072, 8,
         _mixture(8, 3, 34, 2, 17, 128)),
    Case("`mixture_nll`, pose, bfloat16 (gradients in float32)", "position", 131072, 8,
         _mixture(8, 3, 34, 2, 17, 128, torch.bfloat16)),
    Case("`mixture_nll`, pose, float32, correlated pairs", "position", 131072, 8,
         _mixture(8, 3, 34, 2, 17, 128, pairs=True)),
    Case("`mixture_nll`, detection, float32, correlated pairs", "position", 131072, 2,
         _mixture(8, 3, 2, 2, 1, 128, pairs=True)),
    Case("`mixture_nll`, detection, float32: 8 x 128 x 128, M = 3, C = 2, S = 2, one mask", "position", 131072, 2,
         _mixture(8, 3, 2, 2, 1, 128)),
    Case("`mixture_nll`, rows, float32: 1,000,000, M = 5, C = 1, S = 1", "row", 1_000_000, 10,
         _mixture(1_000_000, 5, 1, 1, 0, 0)),
    Case('`mixture_mode`, pose, "weight"', "position", 131072, 8, _mode),
    Case("`topk_peaks`, 1 x 80 x 128 x 128, k = 100", "cell", 1310720, 1, _peaks),
    Case("`heatmap_focal_loss`, 8 x 80 x 128 x 128, with its gradient", "element", 10485760, 8, _focal),
    Case("`center_focal_loss`, 8 x 80 x 128 x 128, 32 objects, with its gradient", "element", 10485760, 8,
         _center_focal, blocks=40),
    Case("`splat_gaussians`, 8 x 80 x 128 x 128, 32 objects", "cell", 10485760, 8, _splat, blocks=160),
    Case("`gather_patches`, 8 x 256 x 128 x 128, 32 objects, channels_last", "element", 589824, 8, _patches(False)),
    Case("`gather_patches`, its backward", "element of the map", 33554432, 8, _patches(True)),
)  # fmt: skip


@dataclass(frozen=True)
class Counted:
    """A launch at its whole size."""

    launch: CompiledLaunch
    blocks: float
    read: float  # bytes, each sector once
    written: float
    factor: float  # of what was run, to the whole

    def instructions(self, unit: str | None = None) -> float:
        execution = self.launch.execution
        return self.factor * (execution.issued if unit is None else execution.of_unit(unit))

    def wavefronts(self, path: str) -> float:
        return self.factor * self.launch.execution.wavefronts[path]


@cache
def counted(case: Case, architecture: str) -> tuple[Counted, ...]:
    """Run a part of a case and return its launches, scaled to the whole."""
    call = case.make(case.part)
    with mdnkernels.use_backend("native"), cuda_on_cpu.running() as report, watching(architecture, case.blocks) as ran:
        call()
    whole = []
    for moved, launch in zip(report.launches, ran, strict=True):
        blocks = launch.grid[0]
        # One block does what all of the batch gives it to do; several share it.
        grown = blocks * case.part if blocks > 1 else 1
        traffic = [32 * case.part * direction.distinct_sectors for direction in (moved.read, moved.written)]
        whole.append(Counted(launch, grown, *traffic, factor=case.part * launch.scale))
    return tuple(whole)


def times(launch: Counted, gpu: Gpu) -> dict[str, float]:
    """Return the seconds that each thing a launch needs takes alone."""
    # The busiest multiprocessor's share; where each has many blocks, those that are done early take from the others.
    each = launch.blocks / gpu.multiprocessors
    share = (1 if each > 20 else math.ceil(each) / each) / gpu.multiprocessors
    count = launch.instructions
    longest = launch.launch.execution.longest_warp * (launch.factor if launch.blocks == 1 else 1)
    cycles = {
        "issue": share * count() / gpu.schedulers,
        "FP32 unit": share * 32 * max((count("fp32") + count("imad")) / gpu.fp32, count("imad") / gpu.integer),
        "integer unit": share * 32 * count("int") / gpu.integer,
        "FP64 unit": share * 32 * count("fp64") / gpu.fp64,
        "special functions": share * 32 * count("special") / gpu.special,
        "shared memory": share * (launch.wavefronts("shared") + launch.wavefronts("global")),
        "latency": longest * LATENCY,
    }
    seconds = {name: value / gpu.clock for name, value in cycles.items()}
    return {"DRAM": (launch.read + launch.written) / gpu.bandwidth, **seconds, "launch": LAUNCH}


def limit(launch: Counted, gpu: Gpu) -> tuple[str, float]:
    """Find what a launch waits for, and for how many seconds."""
    needs = times(launch, gpu)
    name = max(needs, key=lambda need: needs[need])
    return name, needs[name]


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.2g}"


def _row(case: Case) -> str:
    launches = counted(case, GPUS[0].architecture)
    megabytes = [sum(getattr(one, way) for one in launches) / 1e6 for way in ("read", "written")]
    counts = [32 * sum(one.instructions(unit) for one in launches) / case.count for unit in (None, "fp32", "special")]
    cells = [case.name, *(f"{value:.1f}" for value in megabytes), case.each, *map(_short, counts)]
    for gpu in GPUS:
        launches = counted(case, gpu.architecture)
        limits = [(ptxas.readable(one.launch.symbol).split("<")[0], *limit(one, gpu)) for one in launches]
        total = sum(seconds for *_, seconds in limits)
        longest = sorted((one for one in limits if one[2] > 0.1 * total), key=lambda one: -one[2])
        named = ", ".join(f"`{name}` {_short(1e6 * seconds)} {need}" for name, need, seconds in longest)
        dram = 1e6 * sum(one.read + one.written for one in launches) / gpu.bandwidth
        cells += [_short(dram), _short(1e6 * total) + (f": {named}" if gpu is GPUS[0] else f" {longest[0][1]}")]
    return f"| {' | '.join(cells)} |"


def table(cases: Sequence[Case] = CASES) -> str:
    """Return a row for each case, as Markdown; docs/gpu.md explains the columns."""
    head = "| op and shape | MB read | written | each | instructions | FP32 | special | "
    columns = " | ".join(f"{gpu.name}: DRAM us | expected us" for gpu in GPUS)
    return "\n".join([f"{head}{columns} |", "| --- |" + " --- |" * (6 + 2 * len(GPUS)), *map(_row, cases)])
