"""Components and views: OKS as COCO computes it, and figures matched, grouped and counted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mdnkernels.models import COCO_PERSON
from mdnkernels.train.analysis.matching import object_keypoint_similarity
from mdnkernels.train.analysis.subject import Subject
from mdnkernels.train.analysis.views import analyse, match_figures, summarise
from mdnkernels.train.data.coco import Category
from mdnkernels.train.tasks.pose import PoseTask

JOINTS = len(COCO_PERSON.names)


def index(entry: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": [{**entry, "id": 1}]}
    coco.createIndex()
    return coco


@pytest.mark.parametrize("seed", range(5))
def test_similarity_is_cocos(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(seed)
    truth = np.concatenate((100 * rng.random((JOINTS, 2)), rng.integers(0, 3, (JOINTS, 1))), 1)
    points = truth[:, :2] + rng.normal(scale=4, size=(JOINTS, 2))
    shared = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 100, 100], "area": 1234.0, "iscrowd": 0}
    true = shared | {"keypoints": truth.ravel().tolist(), "num_keypoints": int((truth[:, 2] > 0).sum())}
    found = np.concatenate((points, np.ones((JOINTS, 1))), 1)
    evaluator = COCOeval(index(true), index(shared | {"keypoints": found.ravel().tolist(), "score": 1.0}), "keypoints")
    evaluator.evaluate()
    expected = evaluator.ious[1, 1][0, 0]
    assert 0.05 < expected < 0.95
    assert object_keypoint_similarity(points, truth, 1234.0, COCO_PERSON.sigmas) == pytest.approx(expected)


def figure(image: int, view: str, hidden: bool, labelled: bool = True) -> dict[str, Any]:
    points = np.stack((np.arange(JOINTS) * 5.0 + 10, np.arange(JOINTS) % 4 * 9.0 + 10, np.full(JOINTS, 2.0)), 1)
    return {
        "image_id": image,
        "bbox": [10.0, 10, 80, 40],
        "area": 1600.0,
        "view": view,
        "cue_hidden": hidden,
        "keypoints": points.ravel().tolist(),
        "num_keypoints": JOINTS * labelled,
    }


def result(image: int, component: int, *, swapped: bool = False, score: float = 0.9, x: float = 10) -> dict[str, Any]:
    points = np.reshape(figure(image, "front", False)["keypoints"], (-1, 3))
    points = points[list(COCO_PERSON.mirrored)] if swapped else points
    return {
        "image_id": image,
        "bbox": [x, 10.0, 80, 40],
        "keypoints": points.ravel().tolist(),
        "score": score,
        "component": component,
        "weight": 0.9 if component == 1 else 0.6,
        "sigma": [10.0, 40.0],
    }


def test_figures_are_grouped_by_what_can_be_told_of_their_view() -> None:
    truth = [
        figure(1, "front", False),
        figure(2, "back", False),
        figure(3, "back", True),
        figure(4, "front", True),
        figure(5, "front", False),
        figure(6, "front", False, labelled=False),
    ]
    results = [
        result(1, 2),
        result(1, 0, score=0.5),  # weaker
        result(2, 1),
        result(3, 2, swapped=True),
        result(4, 2),
        result(5, 1, x=60),  # elsewhere
        result(5, 1, score=0.1),  # too weak
    ]
    matches = match_figures(results, truth, COCO_PERSON, 0.3)
    assert matches.component.tolist() == [2, 1, 2, 2]
    assert matches.missed == 1
    summary = summarise(matches, 3)
    assert (summary["found"], summary["missed"], summary["cramers_v"]) == (4, 1, pytest.approx(1))
    groups = summary["groups"]
    assert [groups[name]["figures"] for name in ("front", "back", "cannot be told")] == [1, 1, 2]
    assert groups["cannot be told"]["components"] == [0, 0, 2]
    assert groups["front"]["oks"] == pytest.approx(1)
    assert groups["cannot be told"]["either"] == pytest.approx(1)
    truth_points = np.reshape(truth[0]["keypoints"], (-1, 3))
    exchanged = truth_points[list(COCO_PERSON.mirrored), :2]
    wrong = object_keypoint_similarity(exchanged, truth_points, 1600.0, COCO_PERSON.sigmas)
    assert groups["cannot be told"]["oks"] == pytest.approx((1 + wrong) / 2)
    assert [groups[name]["weight"] for name in ("front", "back")] == [0.6, 0.9]
    assert groups["back"]["sigma"] == pytest.approx(math.sqrt(10 * 40 / 1600))


def test_nothing_found_is_nothing_to_average() -> None:
    summary = summarise(match_figures([], [figure(1, "front", False)], COCO_PERSON, 0.3), 2)
    assert (summary["found"], summary["missed"]) == (0, 1)
    assert all(math.isnan(group["oks"]) and group["components"] == [0, 0] for group in summary["groups"].values())


def test_a_report_has_every_network_by_its_title(tmp_path: Path) -> None:
    truth = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [figure(1, "front", False)]}
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    task = PoseTask([Category(1, "person")])
    found = {"base": (0, [result(1, -1)]), "MDN_2": (2, [result(1, 1)]), "MDN_3": (3, [result(1, 0, x=60)])}
    section = analyse(
        [Subject(title, tmp_path, task, count, tmp_path, path, own, {}) for title, (count, own) in found.items()]
    )
    assert [line for line in section.lines if "| front |" in line] == [
        "| base | front | 1 | none | 1.00 | 1.00 | none |",
        "| MDN_2 | front | 1 | 0 / 1 | 1.00 | 1.00 | 0.50 |",
        "| MDN_3 | front | 0 | 0 / 0 / 0 | none | none | none |",
    ]
    assert "| MDN_3 | none | 0 | 1 |" in section.lines
