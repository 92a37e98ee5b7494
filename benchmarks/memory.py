"""The memory of a call: the most that it holds at once, above what was held before it."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import torch

import mdnkernels

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_bytes(run: Callable[[], object], device: str = "cpu") -> int | None:
    """Return the peak of a call of `run`, which has run before, or None where the system does not tell.

    On a GPU it is what torch's allocator gave. On the CPU it is what became resident in this process, as Linux counts
    it: pages. Before the call all that earlier ones freed goes back to the system, or it would count as held.
    """
    if device == "cpu":
        return _resident_peak(run) if CLEAR_REFS.exists() else None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del result
    return peak


def _resident_peak(run: Callable[[], object]) -> int:
    mdnkernels.empty_cache()
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident("VmRSS")
    CLEAR_REFS.write_text("5")  # the peak begins anew
    result = run()
    peak = _resident("VmHWM")
    del result
    return max(peak - before, 0)


def _resident(field: str) -> int:
    """Return a field of this process's status in bytes: VmRSS, or its peak VmHWM."""
    found = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    if found is None:
        raise RuntimeError(f"{STATUS} has no {field}")
    return int(found[1]) * 1024
