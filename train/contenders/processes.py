"""Networks trained in as many processes as there are cores, each of one thread: threads that share a core wait."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TextIO

from mdnkernels.train.contenders.ceiling import Ceiling, measure_ceiling, read_ceiling
from mdnkernels.train.contenders.jobs import Job, Trained, draw_data, train
from mdnkernels.train.loop.interrupt import sigint_ignored, sigterm_as_interrupt


def train_all(jobs: Sequence[Job], folder: Path, *, device: str, processes: int | None) -> list[Trained]:
    """Draw the pictures of all jobs and train and evaluate their networks, what is not done yet; return them in order.

    processes: at once; 0 for none but this one, None for as many as there are cores. A line is printed for each network
    that is done. Ctrl-C and SIGTERM end the processes with this one; the same call then goes on. Raises ConfigError
    where something else stands in the folder, and what a training raises, once those that run beside it are done.
    """
    worlds = {(job.world, job.seed): job for job in jobs}
    _run_all([(draw_data, (job, folder), _label(job)) for job in worlds.values()], processes, lambda number: None)
    trained: dict[int, Trained] = {}

    def add(number: int) -> None:
        done = trained[number] = Trained(jobs[number], folder, device)
        print(
            f"{len(trained)} of {len(jobs)}: {_label(jobs[number])}: AP {100 * done.subject.metrics['AP']:.1f}, "
            f"{done.seconds:.0f} s",
            flush=True,
        )

    _run_all([(train, (job, folder, device), f"{_label(job)}: ") for job in jobs], processes, add)
    return [trained[number] for number in range(len(jobs))]


def measure_ceilings(
    jobs: Sequence[Job], folder: Path, *, device: str, processes: int | None
) -> dict[tuple[str, int], Ceiling]:
    """Train a classifier of the view for each world and seed of jobs of poses, whose pictures are there.

    Returns what they reach, by the world's name and the seed. The rest is as in `train_all`.
    """
    different = {(job.world.name, job.seed): job for job in jobs}
    calls: list[_Call] = [
        (measure_ceiling, (job, folder, device), f"{job.world.name}, seed {job.seed}, classifier: ")
        for job in different.values()
    ]
    _run_all(calls, processes, lambda number: None)
    return {key: read_ceiling(job, folder) for key, job in different.items()}


_Call = tuple[Callable[..., None], tuple[object, ...], str]
"""A function, its arguments, and what stands before each line that it writes to stderr."""


def _label(job: Job) -> str:
    return f"{job.world.name}, seed {job.seed}, {job.title}"


def _run_all(calls: Sequence[_Call], processes: int | None, done: Callable[[int], None]) -> None:
    """Make all calls, so many at once; `done` is called here with the number of each."""
    count = min(len(calls), (os.cpu_count() or 1) if processes is None else processes)
    if count < 1:
        for number, (function, arguments, _) in enumerate(calls):
            function(*arguments)
            done(number)
        return
    others = set(active_children())
    with sigterm_as_interrupt(), ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        left = iter(enumerate(calls))
        running: dict[Future[None], int] = {}
        try:
            # No more than can run: what stands in the pool's queue would begin after an interruption.
            while True:
                with sigint_ignored():  # as the new processes then do, which would show tracebacks
                    for number, call in _first(left, count - len(running)):
                        running[pool.submit(_call, *call)] = number
                if not running:
                    return
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for one in finished:
                    number = running.pop(one)
                    one.result()
                    done(number)
        except KeyboardInterrupt:
            for process in set(active_children()) - others:
                process.terminate()
            raise


def _first(items: Iterable[tuple[int, _Call]], count: int) -> Iterable[tuple[int, _Call]]:
    """Take so many items at most from an iterator."""
    return [item for _, item in zip(range(count), items, strict=False)]


def _call(function: Callable[..., None], arguments: tuple[object, ...], prefix: str) -> None:
    """Make a call in a process of its own."""
    stream = sys.stderr
    sys.stderr = PrefixedStream(stream, prefix)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr, force=True)
    try:
        function(*arguments)
    finally:
        sys.stderr = stream


class PrefixedStream(io.TextIOBase):
    """Whole lines, each with a prefix, for a process that shares a terminal with others."""

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self._stream, self._prefix, self._begun = stream, prefix, ""

    def write(self, text: str) -> int:
        """Write the lines that are whole; keep the rest until it is."""
        *lines, self._begun = (self._begun + text).split("\n")
        self._stream.write("".join(f"{self._prefix}{line}\n" for line in lines))
        self._stream.flush()
        return len(text)
