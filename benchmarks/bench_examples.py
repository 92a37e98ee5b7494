"""Step time and peak memory of three losses as people write them and as mdnkernels has them: `make benchmark`.

The losses are those of tests/examples/peers.py, and test_peers.py shows that they are the same. A step is the loss and
its gradients. Times are medians of the processor's time of one thread, in turns of one process, so that others on the
machine count little. Peaks are of a process for each contestant, above what its inputs and libraries hold.

    OMP_NUM_THREADS=1 python -m pytest benchmarks/bench_examples.py --benchmark-only -s
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.alternating import alternating_medians
from benchmarks.memory import CLEAR_REFS, peak_bytes
from tests.examples.peers import PAIRS

CONTESTANTS = {
    "usual": "as people write it",
    "compiled": "that, under torch.compile",
    "fused": "mdnkernels, same parameters",
    "direct": "mdnkernels, its own parameters",
}


def step_of(name: str, contestant: str) -> tuple[Callable[[], object], float]:
    """Return a step of the pair `name`, and the size of its gradients in MiB."""
    pair = PAIRS[name]
    parameters, data = pair.draw(torch.float32, **pair.size)
    if contestant == "direct":
        parameters = pair.own(parameters)
    parameters = {key: value.contiguous().requires_grad_() for key, value in parameters.items()}
    leaves = list(parameters.values())
    loss = torch.compile(pair.usual) if contestant == "compiled" else getattr(pair, contestant)
    size = sum(leaf.numel() * leaf.element_size() for leaf in leaves) / 2**20
    return lambda: torch.autograd.grad(loss(parameters, data), leaves), size


def peak_of(name: str, contestant: str) -> tuple[float, float]:
    """Return the peak of a step and the size of its gradients, in MiB."""
    step, gradients = step_of(name, contestant)
    step()
    return peak_bytes(step) / 2**20, gradients


@pytest.mark.parametrize("name", PAIRS)
def test_the_usual_way_beside_mdnkernels(benchmark: Any, name: str) -> None:
    benchmark.group = f"{name}, {', '.join(f'{key} {value}' for key, value in PAIRS[name].size.items())}"
    steps = {contestant: step_of(name, contestant)[0] for contestant in CONTESTANTS}
    medians = alternating_medians(steps, rounds=12, warmup=4, clock=time.process_time)
    benchmark.extra_info.update(medians)
    benchmark.pedantic(steps["fused"], rounds=3)
    print(
        f"\n\n| {benchmark.group} | ms | times as fast | peak, MiB | gradients, MiB |\n| --- | --- | --- | --- | --- |"
    )
    for contestant, words in CONTESTANTS.items():
        peak = gradients = float("nan")
        if CLEAR_REFS.exists():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peak, gradients = pool.apply(peak_of, (name, contestant))
        ratio = medians["usual"] / medians[contestant]
        print(f"| {words} | {medians[contestant] * 1e3:.1f} | {ratio:.1f} | {peak:.0f} | {gradients:.0f} |")
