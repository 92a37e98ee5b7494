"""Components and views by their predictions and by visible faces: numbers that one can count."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mdnkernels.models import Skeleton
from mdnkernels.train.analysis import viewpoint, visibility
from mdnkernels.train.analysis.subject import Subject
from mdnkernels.train.analysis.viewpoint import summarise_components, view_of
from mdnkernels.train.data.coco import Category
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.tasks.pose import PoseTask

SKELETON = Skeleton(("nose", "left_hand", "right_hand", "left_ear", "right_ear"), (0.1,) * 5, ((1, 2), (3, 4)))
TASK = PoseTask([Category(1, "person")], SKELETON)


def prediction(image: int, component: int, score: float, hands: tuple[float, float], **fields: Any) -> dict[str, Any]:
    """Return a result in the box from (0, 0) to (40, 20), whose hands have these x, with its ears at the same x.

    The left parts are above the middle, and the right ones below it.
    """
    left, right = hands
    points = [20.0, 10, 1, left, 9, 1, right, 11, 1, left, 9, 1, right, 11, 1]
    own = {"bbox": [0.0, 0.0, 40.0, 20.0], "sigma": [2.0, 4.0], "keypoints": points}
    return {"image_id": image, "category_id": 1, "score": score, "component": component, **own, **fields}


def person(image: int, flags: tuple[int, int, int, int, int], **fields: Any) -> dict[str, Any]:
    points = [number for flag in flags for number in (5, 5, flag)]
    own = {"bbox": [0.0, 0.0, 40.0, 20.0], "keypoints": points, "num_keypoints": sum(flag > 0 for flag in flags)}
    return {"image_id": image, "category_id": 1, "area": 800.0, "iscrowd": 0, **own, **fields}


def mixture(folder: Path, results: list[dict[str, Any]], people: list[dict[str, Any]], **fields: Any) -> Subject:
    path = folder / "truth.json"
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": people}))
    own = {"title": "MDN_3", "task": TASK, "components": 3, **fields}
    return Subject(run=folder, images=folder, annotations=path, results=results, metrics={}, **own)


RESULTS = [
    prediction(1, 0, 0.9, (21, 19)),
    prediction(2, 0, 0.8, (21, 19), sigma=[4.0, 4.0]),
    prediction(3, 0, 0.6, (19, 21)),
    prediction(4, 0, 0.6, (21, 21)),
    prediction(5, 2, 0.75, (19, 21)),
    prediction(6, 2, 0.4, (19, 21), bbox=[0.0, 0.0, 0.0, 0.0]),
    prediction(7, 1, 0.2, (19, 21)),
]


def test_components_are_summed_up_by_their_predictions(tmp_path: Path) -> None:
    summary = summarise_components(mixture(tmp_path, RESULTS, []))
    first = summary[0]
    assert (first["predictions"], first["share"]) == (4, pytest.approx(4 / 6))
    assert first["sigma_x"] == pytest.approx({"mean": 2.5, "std": math.sqrt(3) / 2})
    assert first["sigma_y"] == pytest.approx({"mean": 4, "std": 0})
    assert first["relative_sigma"] == pytest.approx((3 * math.sqrt(8 / 800) + math.sqrt(16 / 800)) / 4)
    assert (first["left_x"], first["right_x"], first["left_y"], first["right_y"]) == (0.75, 0.5, 0, 1)
    assert [one["view"] for one in summary.values()] == ["front", "neither", "back"]
    # A box that is wholly outside the picture has no size to divide by.
    assert summary[2]["relative_sigma"] == pytest.approx(math.sqrt(8 / 800))
    assert summary[1]["predictions"] == 0
    assert all(math.isnan(summary[1][name]) for name in ("left_x", "relative_sigma"))


def test_nothing_found_is_no_component_of_a_view(tmp_path: Path) -> None:
    summary = summarise_components(mixture(tmp_path, [], []))
    assert [(one["predictions"], one["view"]) for one in summary.values()] == [(0, "neither")] * 3
    assert all(math.isnan(one["share"]) and math.isnan(one["sigma_x"]["mean"]) for one in summary.values())


@pytest.mark.parametrize(
    ("left", "right", "view"),
    [
        (0.7, 0.5, "front"),
        (0.5, 0.7, "back"),
        (0.55, 0.5, "neither"),
        (0.5, 0.55, "neither"),
        (math.nan,) * 2 + ("neither",),
    ],
)
def test_a_view_needs_a_clear_difference(left: float, right: float, view: str) -> None:
    assert view_of(left, right) == view


def test_the_report_has_a_line_for_each_component(tmp_path: Path) -> None:
    base = mixture(tmp_path, [], [], title="base", components=0)
    section = viewpoint.analyse([base, mixture(tmp_path, RESULTS, [])])
    rows = [line for line in section.lines if line.startswith("| MDN_3")]
    assert rows[0] == "| MDN_3 | 0 | front | 4 | 66.7 % | 2.5 (0.9) | 4.0 (0.0) | 0.11 | 75 % | 50 % | 0 % | 100 % |"
    assert rows[1].startswith("| MDN_3 | 1 | neither | 0 | 0.0 % | none (none) |")
    assert list(section.numbers["viewpoint"]) == ["MDN_3"]


PEOPLE = [
    person(1, (2, 2, 2, 2, 2)),
    person(2, (1, 2, 2, 0, 0)),
    person(3, (2, 0, 0, 0, 1)),
    person(4, (0, 2, 1, 2, 2)),
    person(5, (0, 2, 0, 0, 0)),
    person(8, (0, 0, 0, 0, 0)),
    person(9, (2, 2, 2, 2, 2), iscrowd=1),
]


def test_faces_and_keypoints_are_counted_by_their_flags(tmp_path: Path) -> None:
    truth = visibility.analyse([mixture(tmp_path, RESULTS, PEOPLE)]).numbers["visibility"]["truth"]
    assert truth["people"] == 5
    assert truth["labelled"] == pytest.approx({"face": 3 / 5, "nose": 3 / 5, "ears": 3 / 5, "keypoints": 15 / 25})
    assert truth["visible"] == pytest.approx({"face": 2 / 5, "nose": 2 / 5, "ears": 2 / 5, "keypoints": 12 / 25})


def test_views_are_shared_out_at_each_score_and_by_visible_faces(tmp_path: Path) -> None:
    section = visibility.analyse([mixture(tmp_path, RESULTS, PEOPLE)])
    scores = section.numbers["visibility"]["networks"]["MDN_3"]
    low, high = scores["0.5"], scores["0.7"]
    assert (low["predictions"], high["predictions"]) == (5, 3)
    assert low["views"] == pytest.approx({"front": 4 / 5, "back": 1 / 5, "neither": 0})
    assert high["views"] == pytest.approx({"front": 2 / 3, "back": 1 / 3, "neither": 0})
    # The faces of 1 and 3 are visible; those of 2, 4 and 5 are not, and component 2 is taken for 5.
    assert low["face visible"] == pytest.approx({"found": 2, "front": 1, "back": 0, "neither": 0})
    assert low["face not visible"] == pytest.approx({"found": 3, "front": 2 / 3, "back": 1 / 3, "neither": 0})
    assert high["face not visible"] == pytest.approx({"found": 2, "front": 1 / 2, "back": 1 / 2, "neither": 0})
    assert "| MDN_3 | 0.7 | 3 | 66.7 % | 33.3 % | 0.0 % | 1 | 100.0 % | 0.0 % | 2 | 50.0 % | 50.0 % |" in section.lines
    assert "| face: the nose or an eye | 60.0 % | 40.0 % |" in section.lines
    assert not any(line.startswith("| an eye") for line in section.lines)


def test_a_truth_or_a_skeleton_without_faces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no keypoint of anyone is labelled"):
        visibility.analyse([mixture(tmp_path, [], PEOPLE[5:])])
    faceless = PoseTask([Category(1, "crab")], Skeleton(("left_claw", "right_claw"), (0.1, 0.1), ((0, 1),)))
    with pytest.raises(ConfigError, match="no nose and no eyes"):
        visibility.analyse([mixture(tmp_path, [], [], task=faceless)])
