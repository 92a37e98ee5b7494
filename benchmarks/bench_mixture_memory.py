"""Peak memory of mixture_nll, forward and backward, beside its peers, on Linux: `make benchmark`.

Each contestant has a process of its own, where everything has run once before. What is counted is the peak above what
inputs and libraries hold: the loss's own memory, gradients included.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest
import torch

import mdnkernels
from benchmarks import peak_memory
from tests.ops.table import OPS, Case

PEERS = ("native", "torch.compile", "eager")


def peak_of(workload: str, peer: str) -> tuple[float, float]:
    """Return the peak of one forward and backward pass and the size of its gradients, in MiB."""
    entry = OPS["mixture_nll"]
    call = Case(entry, workload).call()
    arguments = dict(call.arguments)
    leaves = [arguments[name].requires_grad_() for name in entry.trained]

    def loss() -> torch.Tensor:
        return mdnkernels.mixture_nll(**arguments)

    function = torch.compile(loss, fullgraph=True) if peer == "torch.compile" else loss
    with mdnkernels.use_backend("native" if peer == "native" else "eager"):
        peak = peak_memory.peak_of(lambda: torch.autograd.grad(function(), leaves))
    return peak, sum(leaf.numel() * leaf.element_size() for leaf in leaves) / 2**20


def peaks_of(workload: str) -> str:
    """Return what each contestant needs, in words."""
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for peer in PEERS:
        with context.Pool(1) as pool:
            peaks[peer], gradients = pool.apply(peak_of, (workload, peer))
    return f"{', '.join(f'{peer} {peak:.0f} MiB' for peer, peak in peaks.items())}; gradients {gradients:.0f} MiB"


@pytest.mark.skipif(not peak_memory.READABLE, reason="peaks are read from Linux's /proc")
@pytest.mark.parametrize("workload", ["pose", "detection", "rows"])
def test_peak_memory(benchmark: Any, workload: str) -> None:
    words = benchmark.pedantic(peaks_of, (workload,), rounds=1)
    print(f"\nmixture_nll, {workload}: {words}")
