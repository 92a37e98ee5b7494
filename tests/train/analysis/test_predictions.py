"""Pictures of predictions: of images with something to find, in their components' colours, with ellipses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mdnkernels.models import COCO_PERSON
from mdnkernels.train.analysis.predictions import analyse, draw_side_by_side
from mdnkernels.train.analysis.subject import Subject
from mdnkernels.train.data.coco import Category
from mdnkernels.train.drawing.colours import component_colour
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.tasks.pose import PoseTask


def subject(folder: Path, sigma: float, readable: bool = True) -> Subject:
    """Return a network that finds the one person of the second of three pictures; the third cannot be read."""
    points = np.stack((np.linspace(20, 60, 17), np.linspace(20, 60, 17), np.full(17, 2.0)), 1).ravel().tolist()
    entry = {"category_id": 1, "bbox": [10.0, 10.0, 60.0, 60.0], "keypoints": points, "area": 3600.0}
    entries = [{"image_id": number, **entry} for number in (2, 3)]
    images = [{"id": number, "file_name": f"{number}.png"} for number in (1, 2, 3)]
    (folder / "truth.json").write_text(json.dumps({"images": images, "annotations": entries}))
    for number in (1, 2) if readable else ():
        Image.new("RGB", (80, 80), "white").save(folder / f"{number}.png")
    # A score at which ellipses were not drawn by default.
    found: list[dict[str, Any]] = [
        entry | {"image_id": 2, "score": score, "component": component, "sigma": [sigma, sigma]}
        for score, component in ((0.4, 1), (0.2, 2))
    ]
    task = PoseTask([Category(1, "person")], COCO_PERSON)
    return Subject("MDN_3", folder, task, 3, folder, folder / "truth.json", found, {})


def test_a_row_is_of_a_picture_with_an_object_and_ellipses_have_one_sigma(tmp_path: Path) -> None:
    small, large = (np.asarray(draw_side_by_side([subject(tmp_path, sigma)])).astype(int) for sigma in (0.01, 100.0))
    assert small.shape == large.shape
    # One row: the truth and the network, each 480 pixels wide, in a frame of 8.
    assert small.shape[1] == 2 * 488 + 8
    assert small.shape[0] < 2 * 480
    colour = [int(component_colour(1)[k : k + 2], 16) for k in (1, 3, 5)]
    counts = [int((np.abs(picture[:500] - colour).sum(2) < 30).sum()) for picture in (small, large)]
    assert counts[1] > counts[0] + 300
    changed = np.flatnonzero((small != large).any((0, 2)))
    assert changed.min() > 488  # in the network's picture alone


def test_pictures_that_cannot_be_read_are_an_error_that_names_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no picture in which .*truth\.json has an object can be read"):
        analyse([subject(tmp_path, 1.0, readable=False)])
