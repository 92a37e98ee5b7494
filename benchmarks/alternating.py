"""Peers timed in turn, so that a busy moment of the machine meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def alternating_medians(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int
) -> dict[str, float]:
    """The median seconds of each contestant over `rounds` turns, of which the first `warmup` do not count."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values[warmup:]) for name, values in times.items()}
