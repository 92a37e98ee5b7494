"""The peak of a call's memory, read from Linux's /proc."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import mdnkernels

CLEAR = Path("/proc/self/clear_refs")
READABLE = CLEAR.exists()


def resident(field: str) -> float:
    """Return a field of this process's status, VmRSS or its peak VmHWM, in MiB."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def peak_of(run: Callable[[], object]) -> float:
    """Return the peak of a second call above what the process held before it, in MiB.

    Whoever compares calls gives each a process of its own: what one has freed, another may reuse.
    """
    run()
    mdnkernels.empty_cache()
    ctypes.CDLL(None).malloc_trim(0)  # or what the first call freed would count as held
    before = resident("VmRSS")
    CLEAR.write_text("5")  # the peak begins anew
    run()
    return resident("VmHWM") - before
