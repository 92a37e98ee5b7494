"""Mixtures beside single-mode bases on synthetic sets, for boxes and for poses, with defaults that take minutes.

Both networks of a task get the same data, seed, order, augmentation and number of steps. The report says what came out;
nothing is chosen by its result.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from train.analysis.registry import ANALYSES
from train.config.commands import DemoConfig
from train.config.rules import check_config
from train.demo.contenders import train_side_by_side
from train.demo.exhibits import EXHIBITS
from train.demo.report import score_table, setting
from train.errors import ConfigError
from train.run.files import write_json, write_text
from train.tasks import TaskName


def run_demo(config: DemoConfig) -> Path:
    """Write the data, train and evaluate two networks for each task, and return the report folder.

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


def _run_task(config: DemoConfig, task: TaskName, report: Path) -> tuple[list[str], dict[str, Any]]:
    """Return the task's section of the report, whose figures are then in its folder, and its numbers."""
    exhibit = EXHIBITS[task]
    folder = config.output / task
    print(f"drawing {config.train_pictures} + {config.val_pictures} pictures in {folder / 'data'}", flush=True)
    data = exhibit.write_data(
        folder / "data",
        train=config.train_pictures,
        val=config.val_pictures,
        image_size=config.image_size,
        seed=config.seed,
    )
    contenders = train_side_by_side(
        config,
        task,
        data,
        {f"mixture, {config.components} components": config.components, "single-mode base (L1)": 0},
    )
    report.mkdir(exist_ok=True)
    lines = [f"## {exhibit.heading}", "", setting(config), ""]
    lines += [f"{exhibit.scores} on the val pictures, in percent:", "", *score_table(contenders)]
    numbers: dict[str, Any] = {
        "metrics": {one.subject.title: one.subject.metrics for one in contenders},
        "training_and_evaluation_seconds": {one.subject.title: round(one.seconds, 1) for one in contenders},
    }
    for name in exhibit.analyses:
        section = ANALYSES[name].analyse([one.subject for one in contenders])
        section.save_figures(report)
        lines += section.lines
        numbers |= section.numbers
    return lines, numbers


def _without_nan(value: Any) -> Any:
    """Return a value for JSON, which has no NaN: what is not defined becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
