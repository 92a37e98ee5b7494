"""Mixtures beside single-mode bases on synthetic sets, for boxes and for poses, with defaults that take minutes.

Both networks of a task get the same data, seed, order, augmentation and number of steps. The report says what came out;
nothing is chosen by its result.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from mdnkernels.train.analysis.registry import ANALYSES
from mdnkernels.train.config.commands import DemoConfig
from mdnkernels.train.config.rules import check_config
from mdnkernels.train.contenders.jobs import Job, Trained
from mdnkernels.train.contenders.processes import train_all
from mdnkernels.train.contenders.worlds import CHANGES, WORLDS
from mdnkernels.train.demo.exhibits import EXHIBITS
from mdnkernels.train.demo.report import score_table, setting
from mdnkernels.train.drawing.plots import new_plot
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.run.files import without_nan, write_json, write_text
from mdnkernels.train.tasks import TaskName


def run_demo(config: DemoConfig) -> Path:
    """Write the data, train and evaluate two networks for each task, and return the report folder.

    Raises ConfigError where something stands at `config.output` already.
    """
    check_config(config)
    if config.output.exists() and (not config.output.is_dir() or any(config.output.iterdir())):
        raise ConfigError(f"--output: {config.output} is there already; choose another name or remove it")
    began = time.monotonic()
    changes = {name: getattr(config, name) for name in CHANGES}
    jobs = [
        Job(family.world(family.main, changes), components, config.seed)
        for family in (WORLDS[task][0] for task in config.tasks)
        for components in (config.components or family.mixture, 0)
    ]
    print(f"drawing pictures and training {len(jobs)} networks in {config.output}", flush=True)
    trained = train_all(jobs, config.output, device=config.device, processes=config.processes)
    report = config.output / "report"
    report.mkdir(exist_ok=True)
    pairs: dict[TaskName, list[Trained]] = {
        task: [one for one in trained if one.job.world.task == task] for task in config.tasks
    }
    sections: list[str] = []
    summary: dict[str, Any] = {}
    for task, contenders in pairs.items():
        lines, numbers = _describe(task, contenders, report)
        sections += lines
        summary[task] = numbers
    summary["seconds"] = round(time.monotonic() - began, 1)
    text = [
        "# What the mixture did that the single-mode base could not",
        "",
        *_begin(pairs, report),
        *sections,
    ]
    write_text(report / "report.md", "\n".join(text))
    write_json(report / "summary.json", without_nan(summary))
    print((report / "report.md").read_text())
    print(f"{report / 'report.md'}: the whole report, after {summary['seconds']:.0f} s", flush=True)
    return report


def _begin(pairs: dict[TaskName, list[Trained]], report: Path) -> list[str]:
    """Return the report's first lines: what the mixtures did in plain words, and one figure, then in the folder."""
    lines: list[str] = []
    widths = [width for task in pairs for width in ((4.5,) if EXHIBITS[task].picture is None else (4.5, 7.5))]
    figure = new_plot(sum(widths), 4.0)
    panels = iter(figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0])
    for task, contenders in pairs.items():
        exhibit = EXHIBITS[task]
        mixture, base = contenders
        measures = exhibit.measure(base), exhibit.measure(mixture)
        lines += [exhibit.headline(*measures), ""]
        exhibit.show(next(panels), *measures)
        if exhibit.picture is not None:
            panel = next(panels)
            panel.imshow(np.asarray(exhibit.picture(base, mixture)))
            panel.set_axis_off()
    figure.savefig(report / "difference.png", dpi=120)
    return [*lines, "![what the mixture did that the base could not](difference.png)", ""]


def _describe(task: TaskName, contenders: list[Trained], report: Path) -> tuple[list[str], dict[str, Any]]:
    """Return the task's section of the report, whose figures are then in its folder, and its numbers."""
    exhibit = EXHIBITS[task]
    lines = [f"## {exhibit.heading}", "", setting(contenders[0]), ""]
    lines += [f"{exhibit.scores} on the val pictures, in percent:", "", *score_table(contenders)]
    numbers: dict[str, Any] = {
        "metrics": {one.subject.title: one.subject.metrics for one in contenders},
        "measures": {one.subject.title: exhibit.measure(one) for one in contenders},
        "training_and_evaluation_seconds": {one.subject.title: round(one.seconds, 1) for one in contenders},
    }
    for name in exhibit.analyses:
        section = ANALYSES[name].analyse([one.subject for one in contenders])
        section.save_figures(report)
        lines += section.lines
        numbers |= section.numbers
    return lines, numbers
