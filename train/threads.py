"""Threads for arithmetic on the CPU: no more than there are cores that nobody else keeps busy.

A part of a network's work ends when its slowest thread has ended. Where another process has one of two cores, the
second thread waits for its turn there, and the first for the second: two threads are then slower than one. A thread
that sleeps in place of spinning (OMP_WAIT_POLICY=passive) helps neither there nor on free cores, where it costs half of
the speed.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import torch

logger = logging.getLogger("mdnkernels.train")

STAT = Path("/proc/stat")
# Long enough for a core's share to be known to a tenth: the kernel counts in hundredths of a second.
SECONDS = 0.25
# Idle time that is lost to what runs now and then everywhere.
SLACK = 0.25


def use_free_cores(device: torch.device, threads: int | None) -> None:
    """Choose the number of torch's threads, once a process, where it computes on the CPU.

    threads: those that the command names. Without it the environment's OMP_NUM_THREADS or MKL_NUM_THREADS stands, and
    otherwise as many are taken as there are cores that others leave free now, which is said where it is fewer. Where
    the system does not tell, nothing is changed.
    """
    if threads is not None:
        torch.set_num_threads(threads)
        return
    global _settled
    before = torch.get_num_threads()
    if _settled or device.type != "cpu" or before == 1 or {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys():
        return
    _settled = True
    free = count_free_cores(SECONDS)
    if free is not None and free < before:
        torch.set_num_threads(free)
        logger.warning(
            "others keep cores busy: %d of %d threads are used, as many as cores are free; --threads or "
            "OMP_NUM_THREADS takes another number, which is slower while the others run",
            free,
            before,
        )


_settled = False


def count_free_cores(seconds: float) -> int | None:
    """Return how many of this process's cores are idle, at least 1, from what they do in so many seconds.

    None where the system does not say what its cores do.
    """
    before = _read_times()
    time.sleep(seconds)
    after = _read_times()
    if before is None or after is None or before.keys() != after.keys():
        return None
    idle = 0.0
    for core, (idle_before, all_before) in before.items():
        passed = after[core][1] - all_before
        # A core that counted nothing was asleep.
        idle += (after[core][0] - idle_before) / passed if passed > 0 else 1.0
    return max(1, int(idle + SLACK))


def _read_times() -> dict[int, tuple[int, int]] | None:
    """Return the idle and the whole time of each core that this process may use, in the kernel's ticks.

    None where there is no such file, or another one.
    """
    try:
        mine = os.sched_getaffinity(0)
        lines = [line.split() for line in STAT.read_text().splitlines()]
        times = {int(line[0][3:]): list(map(int, line[1:9])) for line in lines if line[0][:3] == "cpu" != line[0]}
    except (OSError, AttributeError, ValueError, IndexError):
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal; a core that waits for a disk is free to compute.
    found = {core: (counts[3] + counts[4], sum(counts)) for core, counts in times.items() if core in mine}
    return found or None
