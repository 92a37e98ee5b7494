"""What the demo shows of each task: one entry a task."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from train.synthetic.detection import SHAPES
from train.synthetic.poses import FIGURES, PoseSceneConfig
from train.synthetic.sets import SyntheticPaths
from train.tasks import TaskName

# One large figure a picture, whose limbs hang rather than wave: what a small network learns on a CPU in minutes.
ONE_FIGURE = PoseSceneConfig(max_objects=1, smallest=0.6, spread=0.35, occluded=0.2)


class Exhibit(NamedTuple):
    """A task's part of the demo."""

    heading: str
    scores: str
    """What COCO's numbers are of this task."""
    write_data: Callable[..., SyntheticPaths]
    """Draws its synthetic set: (root, *, train, val, image_size, seed)."""
    analyses: tuple[str, ...]
    """The report's sections, by their names in `train.analysis.registry`."""


EXHIBITS: dict[TaskName, Exhibit] = {
    "detection": Exhibit("Boxes", "COCO box AP", SHAPES.write, analyses=("scales", "predictions", "training")),
    "pose": Exhibit(
        "Poses",
        "COCO keypoint AP (OKS)",
        functools.partial(FIGURES.write, scene=ONE_FIGURE),
        analyses=("views", "predictions", "training"),
    ),
}
