"""The median time of a call on a GPU: from cold caches, by CUDA events, without what the host takes to launch it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

ROUNDS = 100  # at most
LEAST_ROUNDS = 10
# Copies of the inputs that are used in turn together fill the second-level cache so many times.
CACHES = 3
LARGE_CACHE = 128 * 2**20  # bytes, where torch does not know
T = TypeVar("T")


def copies_for(input_bytes: int, device: str) -> int:
    """Return how many copies of the inputs to use in turn.

    Of each copy nothing may be left in the second-level cache when its next turn comes.
    """
    if device == "cpu":
        return 2
    cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or LARGE_CACHE
    return min(2 + CACHES * cache // max(input_bytes, 1), 64)


def measure(run: Callable[[T], object], inputs: Sequence[T], device: str, seconds: float) -> dict[str, Any]:
    """Time `run` on each of the inputs in turn, after calls that compile and allocate what is made once.

    Returns:
        "ms", the median time that the device takes: the host launches everything behind a pause of the device, so the
        device never waits for it. "called_ms", the mean time of a call among others, launches included: what a program
        sees that does nothing else. "rounds", how many calls the median is of. On a CPU the clock gives both times.
    """
    for value in inputs[:1] if device == "cpu" else (*inputs[:3], *inputs[:2]):
        run(value)
    if device == "cpu":
        times = _clock_times(run, inputs, seconds)
        return {"ms": statistics.median(times), "called_ms": statistics.mean(times), "rounds": len(times)}
    called = _time_called(run, inputs, seconds / 2)
    times = _device_times(run, inputs, called, seconds / 2)
    return {"ms": statistics.median(times), "called_ms": called, "rounds": len(times)}


def _clock_times(run: Callable[[T], object], inputs: Sequence[T], seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or (time.perf_counter() < end and len(times) < ROUNDS):
        begin = time.perf_counter()
        run(inputs[len(times) % len(inputs)])
        times.append(1e3 * (time.perf_counter() - begin))
    return times


def _time_called(run: Callable[[T], object], inputs: Sequence[T], seconds: float) -> float:
    torch.cuda.synchronize()
    begin, calls = time.perf_counter(), 0
    while calls < LEAST_ROUNDS or (time.perf_counter() - begin < seconds and calls < ROUNDS):
        run(inputs[calls % len(inputs)])
        calls += 1
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - begin) / calls


def _device_times(run: Callable[[T], object], inputs: Sequence[T], called_ms: float, seconds: float) -> list[float]:
    pause = int(2e6 * (1.5 * called_ms + 0.05))  # cycles, at no more than 2 GHz
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST_ROUNDS or (time.perf_counter() < end and len(times) < ROUNDS):
        begin, done = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(pause)
        begin.record()
        run(inputs[len(times) % len(inputs)])
        done.record()
        done.synchronize()
        times.append(begin.elapsed_time(done))
    return times
