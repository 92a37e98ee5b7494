"""Peak memory of mixture_nll, forward and backward, beside its peers, on Linux: `make benchmark`.

Each contestant has a process of its own, where everything has run once before. What is counted is the peak above what
inputs and libraries hold: the loss's own memory, gradients included.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

from benchmarks.floors import gradient_bytes
from benchmarks.memory import CLEAR_REFS, peak_bytes
from benchmarks.peers import peers
from benchmarks.ways import COMPILED
from tests.ops.table import OPS, Case

PEERS = ("native", COMPILED, "eager")


def peak_of(workload: str, peer: str) -> tuple[float, float]:
    """Return the peak of one forward and backward pass and the size of its gradients, in MiB."""
    call = Case(OPS["mixture_nll"], workload).call()
    run = peers(call)[peer]
    run()
    peak = peak_bytes(run)
    return peak / 2**20, gradient_bytes(call) / 2**20


def peaks_of(workload: str) -> str:
    """Return what each contestant needs, in words."""
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for peer in PEERS:
        with context.Pool(1) as pool:
            peaks[peer], gradients = pool.apply(peak_of, (workload, peer))
    return f"{', '.join(f'{peer} {peak:.0f} MiB' for peer, peak in peaks.items())}; gradients {gradients:.0f} MiB"


@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="peaks are read from Linux's /proc")
@pytest.mark.parametrize("workload", ["pose", "detection", "rows"])
def test_peak_memory(benchmark: Any, workload: str) -> None:
    words = benchmark.pedantic(peaks_of, (workload,), rounds=1)
    print(f"\nmixture_nll, {workload}: {words}")
