"""Boxes as COCO's entries, in the image's own pixels, and their score."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from mdnkernels.models import Detections, placed
from mdnkernels.train.data.coco import Category, CocoAnnotations
from mdnkernels.train.data.coco_file import read_annotations
from mdnkernels.train.data.transforms import window
from mdnkernels.train.tasks.detection import DetectionTask
from mdnkernels.train.tasks.score import Score
from tests.train.drawn_data import DataPaths, edit_json

CATEGORIES = (Category(3, "plate"), Category(9, "ring"))


def perfect(annotations: CocoAnnotations) -> list[dict[str, Any]]:
    return [
        {
            "image_id": int(annotations.image_ids[row]),
            "category_id": annotations.categories[label].id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": 0.9,
            "component": 1,
        }
        for row in range(len(annotations))
        for (x1, y1, x2, y2), label in zip(annotations[row].boxes.tolist(), annotations[row].labels, strict=True)
    ]


def found(boxes: list[list[float]], labels: list[int]) -> Detections:
    count = len(boxes)
    return Detections(
        box=torch.tensor(boxes),
        score=torch.linspace(0.9, 0.1, count),
        label=torch.tensor(labels),
        component=torch.arange(count),
        weight=torch.full((count,), 0.75),
        sigma=torch.full((count, 2), 3.0),
    )


def results(found: Detections, matrix: np.ndarray) -> list[dict[str, Any]]:
    """Return the results of one image of 65 x 50 pixels."""
    batch = placed(Detections(*(values[None] for values in found)), torch.from_numpy(matrix)[None])
    return DetectionTask(CATEGORIES).results(Detections(*(values[0] for values in batch)), (65, 50))


def test_boxes_go_back_to_the_image_and_are_clipped_to_it() -> None:
    matrix = window((50, 40), 0.5, (64, 64))  # the input shows x from 34 to 66, y from 24 to 56
    entries = results(found([[0.0, 0, 20, 10], [60, 0, 70, 8], [1, 1, 1, 1], [0, 0, 9, 9]], [1, 0, 0, -1]), matrix)
    assert [entry["category_id"] for entry in entries] == [9, 3]
    np.testing.assert_allclose(entries[0]["bbox"], [34, 24, 10, 5])
    np.testing.assert_allclose(entries[1]["bbox"], [64, 24, 1, 4])
    assert entries[0]["sigma"] == [1.5, 1.5]
    assert entries[1]["component"] == 1
    assert entries[0]["weight"] == 0.75
    json.dumps(entries)


def test_flipped_input_gives_the_same_boxes() -> None:
    matrix = window((50, 40), 0.5, (64, 64), flip=True)
    (entry,) = results(found([[44.0, 0, 64, 10]], [1]), matrix)
    np.testing.assert_allclose(entry["bbox"], [34, 24, 10, 5])
    assert entry["sigma"] == [1.5, 1.5]


def score(annotations: CocoAnnotations, entries: list[dict[str, Any]]) -> Score:
    return DetectionTask(annotations.categories).score(annotations, entries)


def test_truth_scores_one(drawn: DataPaths) -> None:
    annotations = read_annotations(drawn.annotations)
    one = score(annotations, perfect(annotations))
    assert tuple(one.metrics) == DetectionTask.metrics
    assert one.metrics["AP"] == pytest.approx(1)
    assert one.metrics["APlarge"] == -1  # there are none
    assert len(one.table.splitlines()) == 12


def test_no_detections_score_zero(drawn: DataPaths) -> None:
    assert score(read_annotations(drawn.annotations), []).metrics["AP"] == 0


def test_no_annotations_have_nothing_to_score(drawn_copy: DataPaths) -> None:
    truth = read_annotations(drawn_copy.annotations)
    edit_json(drawn_copy.annotations, lambda root: root.update(annotations=[]))
    empty = read_annotations(drawn_copy.annotations)
    for detections in (perfect(truth), []):
        assert score(empty, detections).metrics["AP"] == -1


def test_list_without_areas_ids_and_crowd_flags_is_scored(drawn_copy: DataPaths) -> None:
    edit_json(
        drawn_copy.annotations,
        lambda root: [entry.pop(name) for entry in root["annotations"] for name in ("area", "iscrowd", "id")],
    )
    annotations = read_annotations(drawn_copy.annotations)
    assert score(annotations, perfect(annotations)).metrics["AP"] == pytest.approx(1)


def test_detections_in_a_crowd_are_not_wrong(drawn_copy: DataPaths) -> None:
    whole = read_annotations(drawn_copy.annotations)
    edit_json(drawn_copy.annotations, lambda root: root["annotations"][0].update(iscrowd=1))
    assert score(read_annotations(drawn_copy.annotations), perfect(whole)).metrics["AP"] == pytest.approx(1)
