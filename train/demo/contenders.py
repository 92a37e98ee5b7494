"""The two networks of a comparison, trained at the same time."""

from __future__ import annotations

import io
import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from typing import NamedTuple, TextIO

import torch

from train.analysis.subject import Subject
from train.config.commands import DemoConfig, FitConfig
from train.config.options import AugmentConfig, DataConfig, ModelConfig, OptimizerConfig
from train.loop.engine import fit
from train.loop.interrupt import sigint_ignored
from train.synthetic.sets import SyntheticPaths
from train.tasks import TaskName


class Contender(NamedTuple):
    """One of the two trained networks."""

    subject: Subject
    seconds: float
    """How long its training and evaluation took."""


def train_side_by_side(
    config: DemoConfig, task: TaskName, data: SyntheticPaths, networks: Mapping[str, int]
) -> list[Contender]:
    """Train networks of a task at once, each in a process of its own with its share of the cores.

    networks: title -> components. Networks this small gain little from a second thread. Ctrl-C ends them with this
    process.
    """
    threads = max(1, (os.cpu_count() or 1) // len(networks))
    with ProcessPoolExecutor(len(networks), mp_context=get_context("spawn")) as pool:
        with sigint_ignored():  # as the new processes then do, which would show tracebacks
            running = [pool.submit(_train, config, task, data, *network, threads) for network in networks.items()]
        try:
            return [one.result() for one in running]
        except KeyboardInterrupt:
            for process in active_children():
                process.terminate()
            raise


def _train(
    config: DemoConfig, task: TaskName, data: SyntheticPaths, title: str, components: int, threads: int
) -> Contender:
    """Train and evaluate one network; the two of a task differ in `components` and the loss's weight alone."""
    began = time.monotonic()
    torch.set_num_threads(threads)
    sys.stderr = PrefixedStream(sys.stderr, f"{task}, {title}: ")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    steps = math.ceil(config.train_pictures / config.batch) * config.epochs
    run = fit(
        FitConfig(
            run=config.output / task / ("base" if components == 0 else f"mixture{components}"),
            data=DataConfig(
                train_images=data.train_images,
                train_annotations=data.train_annotations,
                val_images=data.val_images,
                val_annotations=data.val_annotations,
                input_size=config.image_size,
                workers=config.workers,
            ),
            augment=AugmentConfig(crop_border=config.image_size // 4),
            model=ModelConfig(task=task, arch="hourglass_small", components=components),
            optimizer=OptimizerConfig(epochs=config.epochs, batch=config.batch, lr=config.lr),
            seed=config.seed,
            device=config.device,
            log_every=max(1, min(20, steps // 20)),
        )
    )
    return Contender(Subject.of_run(run, title), time.monotonic() - began)


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
