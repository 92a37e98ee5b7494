"""The drawn data set of `drawn_data` as people: each rectangle with COCO's 17 keypoints in a fixed pattern."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mdnkernels.models import COCO_PERSON
from tests.train.drawn_data import DataPaths, draw_data_set, edit_json

# Where each keypoint lies in its rectangle: left ones right of the middle, as of someone who faces the viewer.
PATTERN = np.array(
    [
        *((0.5, 0.1), (0.55, 0.07), (0.45, 0.07), (0.6, 0.1), (0.4, 0.1)),
        *((0.7, 0.25), (0.3, 0.25), (0.85, 0.4), (0.15, 0.4), (0.9, 0.55), (0.1, 0.55)),
        *((0.62, 0.55), (0.38, 0.55), (0.64, 0.75), (0.36, 0.75), (0.66, 0.95), (0.34, 0.95)),
    ]
)


def draw_figures(folder: Path, count: int = 8) -> DataPaths:
    """Write a person-keypoints data set. Some keypoints of each person are hidden, and some are not labelled."""
    data = draw_data_set(folder, count)

    def change(root: dict[str, Any]) -> None:
        root["categories"] = [{"id": 1, "name": "person", "keypoints": list(COCO_PERSON.names)}]
        for number, entry in enumerate(root["annotations"]):
            x, y, w, h = entry["bbox"]
            visible = [(joint + number) % 3 for joint in range(len(PATTERN))]
            points = np.round(PATTERN * (w, h) + (x, y), 2)
            triples = np.array([[*point, v] if v else [0, 0, 0] for point, v in zip(points, visible, strict=True)])
            entry |= {"category_id": 1, "keypoints": triples.ravel().tolist()}
            entry["num_keypoints"] = sum(v > 0 for v in visible)

    edit_json(data.annotations, change)
    return data
