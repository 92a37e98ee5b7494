"""Shares and sigmas of components over a training: the figure's lines and the report's words are the log's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from mdnkernels.models import COCO_PERSON
from mdnkernels.train.analysis.subject import Subject
from mdnkernels.train.analysis.usage import analyse
from mdnkernels.train.data.coco import Category
from mdnkernels.train.drawing.colours import component_colour
from mdnkernels.train.tasks.base import Task
from mdnkernels.train.tasks.detection import DetectionTask
from mdnkernels.train.tasks.pose import PoseTask
from tests.train.analysis.saving import saved_pixels


def record(kind: str, step: int, epoch: int, share: list[float], sigma: list[float], objects: int) -> dict[str, Any]:
    prefix = "mixture/" if kind == "step" else "mixture_epoch/"
    values = {f"{prefix}objects": objects}
    if objects:
        values |= {f"{prefix}choice_entropy": 0.25}
        values |= {f"{prefix}share_{m}": value for m, value in enumerate(share)}
        values |= {f"{prefix}chosen_{m}": value / 2 for m, value in enumerate(share)}
        values |= {f"{prefix}sigma_{m}": value for m, value in enumerate(sigma)}
    return {"kind": kind, "time": 1.5, "step": step, "epoch": epoch, **values}


LOG = [
    {"kind": "start", "time": 1, "step": 0, "epoch": 1, "share": [[0.5, 0.5]]},
    record("step", 10, 1, [0.75, 0.25], [1.5, 8], 100),
    record("step", 20, 1, [0.5, 0.5], [2.5, 4], 100),
    record("epoch", 20, 1, [0.625, 0.375], [2, 6], 200),
    record("step", 30, 2, [0, 0], [0, 0], 0),
    record("epoch", 40, 2, [0.005, 0.995], [1.25, 3], 180),
    {"kind": "evaluation", "time": 9, "step": 40, "epoch": 2, "metrics/AP": 0.1},
    # Of an epoch that was resumed where nothing of it was left.
    record("epoch", 60, 3, [0, 0], [0, 0], 0),
]


def subject(folder: Path, title: str, components: int, log: list[dict[str, Any]], task: Task | None = None) -> Subject:
    run = folder / title
    run.mkdir()
    (run / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in log))
    return Subject(title, run, task or DetectionTask([]), components, folder, folder, [], {})


def points(line: Line2D) -> list[list[float]]:
    return np.column_stack(line.get_data()).tolist()


def test_report_has_the_last_epoch_with_objects_and_every_record_is_drawn(tmp_path: Path) -> None:
    mixture, base = subject(tmp_path, "mixture", 2, LOG), subject(tmp_path, "base", 0, [])
    section = analyse([base, mixture])
    usage = section.numbers["component_usage"]
    assert usage == {
        "mixture": {
            "epoch": 2,
            "objects": 180,
            "choice_entropy": 0.25,
            "share": [0.005, 0.995],
            "chosen": [0.0025, 0.4975],
            "sigma": [1.25, 3],
        }
    }
    text = "\n".join(section.lines)
    assert (
        "mixture: in epoch 2, of 180 objects, component 0 has 0.5 % (chosen at 0.2 %), sigma 1.25; component 1 has "
        "99.5 % (chosen at 49.8 %), sigma 3. The choice's entropy is 0.25 of the largest possible." in text
    )
    assert "base" not in text
    (name,) = section.figures
    assert f"]({name})" in text
    figure = section.figures[name]
    above, below = figure.axes
    for panel, column in ((above, "share"), (below, "sigma")):
        for m in range(2):
            steps, epochs = (
                line for line in panel.get_lines() if to_hex(line.get_color()) == component_colour(m).lower()
            )
            for line, kind, prefix in ((steps, "step", "mixture/"), (epochs, "epoch", "mixture_epoch/")):
                key = f"{prefix}{column}_{m}"
                assert points(line) == [[one["step"], one[key]] for one in LOG if one["kind"] == kind and key in one]
    assert [one.get_text() for one in figure.legends[0].get_texts()] == ["component 0", "component 1"]
    saved_pixels(figure, tmp_path)


def test_each_network_has_a_column_and_an_older_log_says_so(tmp_path: Path) -> None:
    old = [{"kind": "step", "time": 1, "step": 1, "epoch": 1, "mixture/alpha_0": 1.0, "mixture/sigma_0": 2.0}]
    task = PoseTask([Category(1, "person")], COCO_PERSON)
    two = [subject(tmp_path, "new", 2, LOG, task), subject(tmp_path, "old", 1, old, task)]
    section = analyse(two)
    figure = section.figures["pose_component_usage.png"]
    assert [panel.get_title() for panel in figure.axes] == ["new", "old", "", ""]
    text = "\n".join(section.lines)
    assert "old: the log has no epoch with each component's share" in text
    assert "before each keypoint's constant" in text
    assert section.numbers["component_usage"]["old"] is None
    saved_pixels(figure, tmp_path)
