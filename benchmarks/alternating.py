"""Peers timed in turn, so that a busy moment of the machine meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def alternating_times(
    contestants: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    least: int,
    most: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return each contestant's seconds a call, of at least `least` turns and at most `most`.

    A contestant takes its turns until it has used up its share of `seconds`, so a fast one has more of them.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    share = seconds / len(contestants)
    for turn in range(most):
        for name, run in contestants.items():
            if turn < least or (len(times[name]) == turn and sum(times[name]) < share):
                begin = clock()
                run()
                times[name].append(clock() - begin)
    return times


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
    times = alternating_times(contestants, seconds=0.0, least=rounds, most=rounds, clock=clock)
    return {name: statistics.median(values[warmup:]) for name, values in times.items()}
