"""The main job on embedded defaults: mixtures beside single-mode bases on synthetic sets, for boxes and for poses.

Both networks of a task get the same data, seed, order, augmentation and number of steps. The report says what came out;
nothing is chosen by its result.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, TextIO

import torch

from train.config.commands import DemoConfig, FitConfig
from train.config.options import AugmentConfig, DataConfig, ModelConfig, OptimizerConfig
from train.config.rules import check_config
from train.demo.detection import DetectionDemo
from train.demo.poses import PoseDemo
from train.demo.report import Contender, Exhibit
from train.drawing.plots import training_curves
from train.errors import ConfigError
from train.loop.engine import fit
from train.loop.interrupt import sigint_ignored
from train.run.files import write_json, write_text
from train.run.log import read_log
from train.synthetic.sets import SyntheticPaths

DEMOS: dict[str, Exhibit] = {"detection": DetectionDemo(), "pose": PoseDemo()}


def run_demo(config: DemoConfig) -> Path:
    """Writes the data, trains and evaluates two networks for each task, and returns the report folder.

    Raises ConfigError where something stands at `config.output` already.
    """
    check_config(config)
    if config.output.exists() and (not config.output.is_dir() or any(config.output.iterdir())):
        raise ConfigError(f"--output: {config.output} is there already; choose another name or remove it")
    began = time.monotonic()
    report = config.output / "report"
    sections: list[str] = []
    summary: dict[str, Any] = {}
    for task in config.tasks:
        lines, numbers = _run_task(config, task, report)
        sections += lines
        summary[task] = numbers
    summary["seconds"] = round(time.monotonic() - began, 1)
    write_text(report / "report.md", "\n".join(["# Mixture against single mode on synthetic sets", "", *sections]))
    write_json(report / "summary.json", _without_nan(summary))
    print((report / "report.md").read_text())
    print(f"{report / 'report.md'}: the whole report, after {summary['seconds']:.0f} s", flush=True)
    return report


def _run_task(config: DemoConfig, task: str, report: Path) -> tuple[list[str], dict[str, Any]]:
    """The task's section of the report, and its numbers."""
    demo = DEMOS[task]
    folder = config.output / task
    print(f"drawing {config.train_pictures} + {config.val_pictures} pictures in {folder / 'data'}", flush=True)
    data = demo.write_data(
        folder / "data",
        train=config.train_pictures,
        val=config.val_pictures,
        image_size=config.image_size,
        seed=config.seed,
    )
    contenders = _train_side_by_side(
        config,
        task,
        data,
        {f"mixture, {config.components} components": config.components, "single-mode base (L1)": 0},
    )
    report.mkdir(exist_ok=True)
    curves = f"{task}_training_curves.png"
    training_curves({one.title: read_log(one.run / "log.jsonl") for one in contenders}).savefig(
        report / curves, dpi=120
    )
    lines, analysis = demo.exhibit(report, config, data, contenders)
    numbers = {
        "metrics": {one.title: one.metrics for one in contenders},
        "training_and_evaluation_seconds": {one.title: round(one.seconds, 1) for one in contenders},
        **analysis,
    }
    return [*lines, "### Training", "", f"![training curves]({curves})", ""], numbers


def _train_side_by_side(
    config: DemoConfig, task: str, data: SyntheticPaths, networks: Mapping[str, int]
) -> list[Contender]:
    """Trains the networks, title -> components, at once, each in a process of its own with its share of the cores.

    Networks this small gain little from a second thread. Ctrl-C ends them with this process.
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


def _train(config: DemoConfig, task: str, data: SyntheticPaths, title: str, components: int, threads: int) -> Contender:
    """Trains and evaluates one network; the two of a task differ in `components` and the loss's weight alone."""
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
            model=ModelConfig(task=task, arch="hourglass_small", components=components),  # type: ignore[arg-type]
            optimizer=OptimizerConfig(epochs=config.epochs, batch=config.batch, lr=config.lr),
            seed=config.seed,
            device=config.device,
            log_every=max(1, min(20, steps // 20)),
        )
    )
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    results = json.loads((run / "evaluation" / "detections.json").read_text())
    return Contender(title, run, metrics, results, time.monotonic() - began)


class PrefixedStream(io.TextIOBase):
    """Whole lines, each with a prefix, for a process that shares a terminal with others."""

    def __init__(self, stream: TextIO, prefix: str) -> None:
        self._stream, self._prefix, self._begun = stream, prefix, ""

    def write(self, text: str) -> int:
        """Keeps a line until it is whole."""
        *lines, self._begun = (self._begun + text).split("\n")
        self._stream.write("".join(f"{self._prefix}{line}\n" for line in lines))
        self._stream.flush()
        return len(text)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what is not defined becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
