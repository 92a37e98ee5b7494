"""Reading annotation files: what is taken, what is left out, what stops, and what the message says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import Skeleton
from tests.train.drawn_data import DataPaths, edit_json
from train.coco import Category, read_annotations
from train.errors import DatasetError


def test_scattered_category_ids_become_class_indices_in_id_order(drawn: DataPaths) -> None:
    annotations = read_annotations(drawn.annotations)
    assert annotations.categories == (Category(3, "plate"), Category(7, "bar"), Category(9, "ring"))
    root = json.loads(drawn.annotations.read_text())
    for row, image in enumerate(root["images"]):
        own = [entry for entry in root["annotations"] if entry["image_id"] == image["id"]]
        entry = annotations[row]
        assert (entry.id, entry.file_name) == (image["id"], image["file_name"])
        assert (entry.width, entry.height) == (image["width"], image["height"])
        assert [annotations.categories[label].id for label in entry.labels] == [a["category_id"] for a in own]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in own)]
        np.testing.assert_array_equal(entry.boxes, boxes)


def test_image_without_boxes_is_kept(drawn_copy: DataPaths) -> None:
    edit_json(drawn_copy.annotations, lambda root: root.update(annotations=[]))
    annotations = read_annotations(drawn_copy.annotations)
    assert len(annotations) == 8
    assert annotations[3].boxes.shape == (0, 4)


@pytest.mark.parametrize("box", [[1, 2, 0, 5], [1, 2, 5, -3], [1, 2, float("nan"), 5], [1, 2, float("inf"), 5]])
def test_box_without_a_size_is_skipped_and_counted(drawn_copy: DataPaths, box: list[float]) -> None:
    count = len(read_annotations(drawn_copy.annotations).boxes)
    edit_json(drawn_copy.annotations, lambda root: root["annotations"][2].update(bbox=box))
    annotations = read_annotations(drawn_copy.annotations)
    assert len(annotations.boxes) == count - 1
    assert len(annotations.skipped) == 1
    assert "annotations[2].bbox" in annotations.skipped[0]


def test_first_images_come_with_their_own_boxes(drawn: DataPaths) -> None:
    whole = read_annotations(drawn.annotations)
    part = whole.first(3)
    assert len(part) == 3
    assert len(part.boxes) == sum(len(whole[i].boxes) for i in range(3))
    for i in range(3):
        np.testing.assert_array_equal(part[i].boxes, whole[i].boxes)
    assert whole.first(None) is whole
    assert whole.first(100) is whole


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda root: root.pop("images"), '"images" is missing'),
        (lambda root: root.pop("annotations"), '"annotations" is missing'),
        (lambda root: root.pop("categories"), '"categories" is missing'),
        (lambda root: root.update(images=[]), "images: the list is empty"),
        (lambda root: root["images"][0].update(id=2**70), r"images\[0\].id: \d+ does not fit 64 bits"),
        (
            lambda root: root["images"][0].update(file_name="\ud800.png"),
            r"images\[0\].file_name: .* is not valid Unicode",
        ),
        (lambda root: root["annotations"][0].update(iscrowd="0"), r"annotations\[0\].iscrowd: '0' is neither 0 nor 1"),
        (lambda root: root["annotations"][0].update(area=float("nan")), r"annotations\[0\].area: nan"),
        (lambda root: root.update(categories=[]), "categories: the list is empty"),
        (lambda root: root.update(images={}), "images: is a dict"),
        (lambda root: root["images"].append(7), r"images\[8\]: is a int"),
        (lambda root: root["annotations"][1].update(category_id=4), r"annotations\[1\].category_id: 4 is not in"),
        (lambda root: root["annotations"][1].update(image_id=99), r"annotations\[1\].image_id: 99 is not in"),
        (lambda root: root["annotations"][1].pop("bbox"), r"annotations\[1\].bbox: is missing"),
        (lambda root: root["annotations"][1].update(bbox=[1, 2, 3]), r"annotations\[1\].bbox"),
        (lambda root: root["annotations"][1].update(bbox=["a", 2, 3, 4]), r"annotations\[1\].bbox"),
        (lambda root: root["annotations"][1].update(area="large"), r"annotations\[1\].area"),
        (lambda root: root["annotations"][1].update(id=1), r"annotations\[1\].id: 1 stands twice"),
        (lambda root: root["images"][1].update(id=1), r"images\[1\].id: 1 stands twice"),
        (lambda root: root["images"][1].update(id="b"), r"images\[1\].id: 'b' is not an integer"),
        (lambda root: root["images"][1].pop("file_name"), r"images\[1\].file_name: is missing"),
        (lambda root: root["images"][1].update(width=0), r"images\[1\].width: 0 is not positive"),
        (lambda root: root["categories"][1].update(id=9), r"categories\[1\].id: 9 stands twice"),
        (lambda root: root["categories"][1].pop("name"), r"categories\[1\].name: is missing"),
    ],
)
def test_broken_list_stops_with_file_and_field(
    drawn_copy: DataPaths, change: Callable[[dict[str, Any]], Any], field: str
) -> None:
    edit_json(drawn_copy.annotations, change)
    with pytest.raises(DatasetError, match=field) as caught:
        read_annotations(drawn_copy.annotations)
    assert str(drawn_copy.annotations) in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [(b"{", "not valid JSON"), (b"[]", "holds a list"), (b"\xff", "JSON")])
def test_file_that_is_no_coco_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        read_annotations(path)
    assert str(path) in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"absent\.json: there is no such"):
        read_annotations(tmp_path / "absent.json")


SKELETON = Skeleton(("head", "left", "right"), (0.1, 0.1, 0.1), flip_pairs=((1, 2),))


def with_keypoints(data: DataPaths) -> None:
    """One category whose every annotation has the skeleton's three keypoints."""

    def change(root: dict[str, Any]) -> None:
        root["categories"] = [{"id": 9, "name": "figure", "keypoints": list(SKELETON.names)}]
        for number, entry in enumerate(root["annotations"]):
            entry["category_id"] = 9
            entry["keypoints"] = [number, 2.5, 2, 3, number, 1, 0, 0, 0]

    edit_json(data.annotations, change)


def test_keypoints_come_with_their_annotation(drawn_copy: DataPaths) -> None:
    with_keypoints(drawn_copy)
    edit_json(drawn_copy.annotations, lambda root: root["annotations"].reverse())
    annotations = read_annotations(drawn_copy.annotations, SKELETON)
    root = json.loads(drawn_copy.annotations.read_text())
    for row in range(len(annotations)):
        entry = annotations[row]
        own = [one["keypoints"] for one in root["annotations"] if one["image_id"] == entry.id]
        np.testing.assert_array_equal(entry.keypoints, np.array(own, float).reshape(-1, 3, 3))
    assert read_annotations(drawn_copy.annotations).keypoints.shape == (len(annotations.boxes), 0, 3)
    assert annotations.first(2).keypoints.shape == (annotations.starts[2], 3, 3)


def test_occupied_images_are_those_with_annotations(drawn_copy: DataPaths) -> None:
    whole = read_annotations(drawn_copy.annotations)
    edit_json(
        drawn_copy.annotations,
        lambda root: root.update(annotations=[one for one in root["annotations"] if one["image_id"] not in (1, 4)]),
    )
    occupied = read_annotations(drawn_copy.annotations).occupied()
    assert occupied.image_ids.tolist() == [2, 3, 5, 6, 7, 8]
    for row, original in enumerate((1, 2, 4, 5, 6, 7)):
        assert occupied[row].file_name == whole[original].file_name
        np.testing.assert_array_equal(occupied[row].boxes, whole[original].boxes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: root["annotations"][1].pop("keypoints"), r"annotations\[1\]\.keypoints: is missing"),
        (lambda root: root["annotations"][1]["keypoints"].pop(), r"annotations\[1\]\.keypoints: is not a list of 9"),
        (lambda root: root["annotations"][1].update(keypoints=[0, 0, 3] * 3), r"\[1\]\.keypoints: .* each v 0, 1 or 2"),
        (lambda root: root["annotations"][1].update(keypoints=[0, math.nan, 1] * 3), r"\[1\]\.keypoints: .* finite"),
        (lambda root: root["categories"][0].pop("keypoints"), r"categories\[0\]\.keypoints: None are not"),
        (lambda root: root["categories"][0]["keypoints"].reverse(), r"categories\[0\]\.keypoints: \['right"),
        (lambda root: root["categories"].append({"id": 1, "name": "x"}), r"categories: there are 2; poses are of one"),
    ],
)
def test_wrong_keypoints_are_named(drawn_copy: DataPaths, change: Callable[[Any], Any], message: str) -> None:
    with_keypoints(drawn_copy)
    edit_json(drawn_copy.annotations, change)
    with pytest.raises(DatasetError, match=message):
        read_annotations(drawn_copy.annotations, SKELETON)


def test_a_list_of_images_alone_needs_no_annotations(drawn_copy: DataPaths) -> None:
    edit_json(drawn_copy.annotations, lambda root: root.pop("annotations"))
    with pytest.raises(DatasetError, match=r"\"annotations\" is missing"):
        read_annotations(drawn_copy.annotations)
    entries = read_annotations(drawn_copy.annotations, SKELETON, labelled=False)
    assert len(entries) == 8
    assert entries.keypoints.shape == (0, 3, 3)
