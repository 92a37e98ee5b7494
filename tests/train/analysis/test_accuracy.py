"""The table of accuracies: each cell is what an evaluation of its own gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdnkernels.train.analysis import accuracy
from mdnkernels.train.analysis.evaluations import Machine
from mdnkernels.train.analysis.subject import Section, Subject
from mdnkernels.train.config.commands import EvaluateConfig
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.inference.evaluation import evaluate
from mdnkernels.train.tasks.detection import DetectionTask


def cells(section: Section) -> dict[str, list[str]]:
    """Return the cells of a section's table by the first of each row; that of the head is ""."""
    rows = [line.strip("|").split("|") for line in section.lines if line.startswith("|")]
    return {row[0].strip(" *"): [cell.strip() for cell in row[1:]] for row in rows}


def test_cells_are_those_of_separate_evaluations(runs: Path, tmp_path: Path) -> None:
    subjects = [Subject.of_run(runs / name, machine=Machine("cpu", 8, 0)) for name in ("mixture", "base")]
    section = accuracy.analyse(subjects)
    table = cells(section)
    assert table[""] == ["share", *DetectionTask.metrics]
    assert list(table)[2:] == ["mixture", "component 0", "component 1", "base"]
    ways = {
        "mixture": ("mixture", InferenceConfig()),
        "component 0": ("mixture", InferenceConfig(component=0)),
        "component 1": ("mixture", InferenceConfig(component=1)),
        "base": ("base", InferenceConfig()),
    }
    for row, (run, inference) in ways.items():
        config = EvaluateConfig(run=runs / run, output=tmp_path, workers=0, device="cpu", inference=inference)
        metrics = evaluate(config, say=lambda _: None)
        for cell, name in zip(table[row][1:], DetectionTask.metrics, strict=True):
            if metrics[name] == -1:
                assert cell == "none"
            else:
                assert float(cell) == pytest.approx(100 * metrics[name], abs=0.0501)
    numbers = section.numbers["mixture"]["components"]
    assert [one.keys() for one in numbers] == [{"share", *DetectionTask.metrics}] * 2
    assert section.numbers["base"]["components"] == []
