"""The analyses by name: one file of this folder and one line here for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mdnkernels.train.analysis import (
    accuracy,
    epochs,
    keypoints,
    predictions,
    resolution,
    scales,
    speed,
    training,
    usage,
    viewpoint,
    views,
    visibility,
)
from mdnkernels.train.analysis.subject import Section, Subject
from mdnkernels.train.tasks import TaskName


class Analysis(NamedTuple):
    """A part of a report."""

    tasks: tuple[TaskName, ...]
    """Whose results it can be made of."""
    analyse: Callable[[Sequence[Subject]], Section]
    """Makes it of networks of one task that were evaluated on the same data, to be compared with one another."""


ANALYSES: dict[str, Analysis] = {
    "accuracy": Analysis(("detection", "pose"), accuracy.analyse),
    "speed": Analysis(("detection", "pose"), speed.analyse),
    "resolution": Analysis(("detection", "pose"), resolution.analyse),
    "epochs": Analysis(("detection", "pose"), epochs.analyse),
    "scales": Analysis(("detection",), scales.analyse),
    "viewpoint": Analysis(("pose",), viewpoint.analyse),
    "visibility": Analysis(("pose",), visibility.analyse),
    "keypoints": Analysis(("pose",), keypoints.analyse),
    "views": Analysis(("pose",), views.analyse),
    "predictions": Analysis(("detection", "pose"), predictions.analyse),
    "training": Analysis(("detection", "pose"), training.analyse),
    "usage": Analysis(("detection", "pose"), usage.analyse),
}
