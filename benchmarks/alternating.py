"""Peers timed in turn, so that a busy moment of the machine meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def alternating_medians(
    contestants: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each contestant over `rounds` turns, of which the first `warmup` do not count.

    A `clock` of time.process_time leaves out what the machine does meanwhile for others, and adds up threads.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            begin = clock()
            run()
            times[name].append(clock() - begin)
    return {name: statistics.median(values[warmup:]) for name, values in times.items()}
