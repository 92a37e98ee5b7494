"""COCO's numbers of networks side by side, and of each component of a mixture alone: the paper's Tables 1 and 3."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mdnkernels.train.analysis.published import SOURCE, published_of
from mdnkernels.train.analysis.subject import MIN_SCORE, Section, Subject
from mdnkernels.train.analysis.tables import coco_cell, markdown_table, percent
from mdnkernels.train.config.options import InferenceConfig


def analyse(subjects: Sequence[Subject]) -> Section:
    """Give all of COCO's numbers of each network, and of each component that gives every object alone."""
    found = {
        subject.title: subject.evaluate(InferenceConfig(), each_component=subject.components > 0).metrics
        for subject in subjects
    }
    names = subjects[0].task.metrics
    rows: list[list[str]] = []
    for subject in subjects:
        metrics = found[subject.title]
        rows.append([f"**{subject.title}**", "", *_cells(metrics, names)])
        # One component alone is the model itself.
        for number, one in enumerate(metrics.get("components", []) if subject.components > 1 else []):
            rows.append([f"component {number}", _share(one["share"]), *_cells(one, names)])
        for published in published_of(subject):
            if not published.flip:
                rows.append(["published", "", coco_cell(published.AP), *[""] * (len(names) - 1)])
    lines = [
        "### Accuracy, of the model and of each component alone",
        "",
        "COCO's numbers in percent. A component alone gives the size (pose) of every object that the model finds; its "
        f"share is of the model's results with a score of {MIN_SCORE} or more. No flip, one scale.",
        "",
        *markdown_table(["", "share", *names], rows),
    ]
    if any(map(published_of, subjects)):
        lines += [f"Published: {SOURCE}.", ""]
    numbers = {
        title: {
            **{name: metrics[name] for name in names},
            "components": [{name: one[name] for name in ("share", *names)} for one in metrics.get("components", [])],
        }
        for title, metrics in found.items()
    }
    return Section(lines, numbers, {})


def _cells(metrics: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [coco_cell(metrics[name]) for name in names]


def _share(value: float | None) -> str:
    return percent(math.nan if value is None else value, 1)
