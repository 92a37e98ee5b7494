"""Reading annotation files: what is taken, what is left out, what stops, and what the message says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdnkernels.models import Skeleton
from mdnkernels.train.data.coco import Category
from mdnkernels.train.data.coco_file import read_annotations
from mdnkernels.train.errors import DatasetError
from tests.train.drawn_data import DataPaths, edit_json

HUGE = 10**400  # which JSON allows, and no float holds


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
        (lambda root: root["images"][1].update(id="2"), r"images\[1\].id: '2' is not an integer; write .* without quo"),
        (lambda root: root["images"][1].update(id=1.5), r"images\[1\].id: 1.5 is not an integer"),
        (lambda root: root["images"][1].update(id=1e17), r"images\[1\].id: 1e\+17 is not an integer"),
        (lambda root: root["images"][1].update(id=math.inf), r"images\[1\].id: inf is not an integer"),
        (lambda root: root["images"][1].update(width=math.nan), r"images\[1\].width: nan is not an integer"),
        (lambda root: root["images"][1].update(height=80.5), r"images\[1\].height: 80.5 is not an integer"),
        (lambda root: root["images"][1].update(id=HUGE), r"images\[1\].id: 10+\.\.\.0+ does not fit 64 bits"),
        (
            lambda root: root["annotations"][1].update(category_id="9"),
            r"annotations\[1\].category_id: '9' is not an int",
        ),
        (lambda root: root["annotations"][1].update(category_id=True), r"annotations\[1\].category_id: True is not an"),
        (
            lambda root: root["annotations"][1].update(bbox=[1, 2, HUGE, 4]),
            r"annotations\[1\].bbox: \[1, 2, 10+\.\.\.0",
        ),
        (lambda root: root["annotations"][1].update(area=HUGE), r"annotations\[1\].area: 10+\.\.\.0+ is not a finite"),
        (lambda root: root["annotations"][1].update(iscrowd=HUGE), r"annotations\[1\].iscrowd: 10+\.\.\.0+ is neither"),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "holds a list"),
        (b"\xff", "JSON"),
        (b'{"images": ' + 200_000 * b"[", "nested without end"),
        (200_000 * b'{"images": ', "nested without end"),
        (b'{"images": 1' + 5000 * b"0" + b"}", "not valid JSON"),
    ],
)
def test_file_that_is_no_coco_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        read_annotations(path)
    assert str(path) in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"absent\.json: there is no such"):
        read_annotations(tmp_path / "absent.json")


def test_whole_numbers_written_as_floats_are_read(drawn_copy: DataPaths) -> None:
    whole = read_annotations(drawn_copy.annotations)

    def change(root: dict[str, Any]) -> None:
        for entry in (*root["images"], *root["annotations"], *root["categories"]):
            entry |= {name: float(value) for name, value in entry.items() if isinstance(value, int)}

    edit_json(drawn_copy.annotations, change)
    assert ".0" in drawn_copy.annotations.read_text()
    floats = read_annotations(drawn_copy.annotations)
    assert floats.categories == whole.categories
    for name in ("image_ids", "sizes", "labels", "crowd", "boxes"):
        np.testing.assert_array_equal(getattr(floats, name), getattr(whole, name))


@pytest.mark.parametrize("box", [[1e300, 2, 5, 5], [1, 2, 1e12, 5], [-1e10, 2, 5, 5]])
def test_box_beyond_any_image_is_skipped_and_counted(drawn_copy: DataPaths, box: list[float]) -> None:
    edit_json(drawn_copy.annotations, lambda root: root["annotations"][2].update(bbox=box))
    annotations = read_annotations(drawn_copy.annotations)
    assert len(annotations.skipped) == 1
    assert "annotations[2].bbox" in annotations.skipped[0]


def test_boxes_outside_their_image_are_left_out_with_a_reason(drawn_copy: DataPaths) -> None:
    # Nothing inside; a sliver inside; and outside of an image whose size nobody gives.
    gone = {0: [80, 3, 9, 9], 2: [3, -9, 9, 9], 4: [-1e4, 3, 100, 5]}
    kept = {1: [79.9, 3, 9, 9], 3: [-8.9, 3, 9, 9]}

    def change(root: dict[str, Any]) -> None:
        for position, box in {**gone, **kept}.items():
            root["annotations"][position]["bbox"] = box
        root["annotations"][5].update(image_id=8, bbox=[500, 500, 9, 9])
        del root["images"][7]["width"], root["images"][7]["height"]

    edit_json(drawn_copy.annotations, change)
    whole = read_annotations(drawn_copy.annotations)
    inside = whole.inside()
    assert [reason.split(".")[0] for reason in inside.skipped] == [f"annotations[{position}]" for position in gone]
    assert "lies wholly outside image 1 of 80 x 72 pixels" in inside.skipped[0]
    assert sorted(set(whole.positions) - set(inside.positions)) == list(gone)
    assert len(inside) == len(whole)
    for i in range(len(whole)):
        left = [row for row in range(whole.starts[i], whole.starts[i + 1]) if whole.positions[row] not in gone]
        np.testing.assert_array_equal(inside[i].boxes, whole.boxes[left])
        np.testing.assert_array_equal(inside[i].labels, whole.labels[left])
    assert inside.inside() is inside


SKELETON = Skeleton(("head", "left", "right"), (0.1, 0.1, 0.1), flip_pairs=((1, 2),))


def with_keypoints(data: DataPaths) -> None:
    """Give the data set one category whose every annotation has the skeleton's three keypoints."""

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
        (lambda root: root["annotations"][1]["keypoints"].pop(), r"annotations\[1\]\.keypoints: is not a list of 9"),
        (lambda root: root["annotations"][1].update(keypoints=[0, 0, 3] * 3), r"\[1\]\.keypoints: .* each v 0, 1 or 2"),
        (lambda root: root["annotations"][1].update(keypoints=[0, math.nan, 1] * 3), r"\[1\]\.keypoints: .* finite"),
        (
            lambda root: root["annotations"][1].update(keypoints=[0, 1e300, 1] * 3),
            r"\[1\]\.keypoints: .* in some image",
        ),
        (
            lambda root: root["annotations"][1].update(keypoints=[0, HUGE, 1] * 3),
            r"\[1\]\.keypoints: is not a list of 9",
        ),
        (lambda root: root["annotations"][1].update(keypoints="none"), r"\[1\]\.keypoints: is not a list of 9"),
        (lambda root: root["categories"][0].pop("keypoints"), r"categories\[0\]\.keypoints: None are not"),
        (lambda root: root["categories"][0]["keypoints"].reverse(), r"categories\[0\]\.keypoints: \['right"),
        (
            lambda root: [
                root["categories"].append({"id": 1, "name": "x"}),
                root["annotations"][1].update(category_id=1),
            ],
            r"categories: annotations are of 2 \('figure', 'x'\); poses are of one",
        ),
    ],
)
def test_wrong_keypoints_are_named(drawn_copy: DataPaths, change: Callable[[Any], Any], message: str) -> None:
    with_keypoints(drawn_copy)
    edit_json(drawn_copy.annotations, change)
    with pytest.raises(DatasetError, match=message):
        read_annotations(drawn_copy.annotations, SKELETON)


@pytest.mark.parametrize("first", [False, True])
def test_unused_categories_beside_the_poses_are_left_out_and_counted(drawn_copy: DataPaths, first: bool) -> None:
    with_keypoints(drawn_copy)
    expected = read_annotations(drawn_copy.annotations, SKELETON)
    assert expected.unused_categories == ()
    others = [{"id": 1, "name": "ball"}, {"id": 12, "name": "bat", "keypoints": ["grip"]}]

    def change(root: dict[str, Any]) -> None:
        root["categories"] = others + root["categories"] if first else root["categories"] + others

    edit_json(drawn_copy.annotations, change)
    annotations = read_annotations(drawn_copy.annotations, SKELETON)
    assert annotations.categories == (Category(9, "figure"),)
    np.testing.assert_array_equal(annotations.labels, expected.labels)
    np.testing.assert_array_equal(annotations.keypoints, expected.keypoints)
    start = 0 if first else 1
    assert annotations.unused_categories == (
        f"categories[{start}]: 'ball' has no annotation",
        f"categories[{start + 1}]: 'bat' has no annotation",
    )


def test_people_without_keypoints_have_none_labelled_and_are_counted(drawn_copy: DataPaths) -> None:
    with_keypoints(drawn_copy)
    whole = read_annotations(drawn_copy.annotations, SKELETON)
    assert whole.without_keypoints == ()

    def change(root: dict[str, Any]) -> None:
        root["annotations"][1].pop("keypoints")
        root["annotations"][3]["keypoints"] = []
        root["annotations"][4]["keypoints"] = None
        root["annotations"][6].pop("keypoints")
        root["annotations"][6]["iscrowd"] = 1  # a crowd has none

    edit_json(drawn_copy.annotations, change)
    annotations = read_annotations(drawn_copy.annotations, SKELETON)
    assert annotations.skipped == ()
    assert annotations.without_keypoints == (
        "annotations[1].keypoints: is missing",
        "annotations[3].keypoints: is []",
        "annotations[4].keypoints: is None",
    )
    np.testing.assert_array_equal(annotations.boxes, whole.boxes)
    empty = np.isin(annotations.positions, (1, 3, 4, 6))
    assert (annotations.keypoints[empty] == 0).all()
    np.testing.assert_array_equal(annotations.keypoints[~empty], whole.keypoints[~empty])


def test_a_list_of_images_alone_needs_no_annotations(drawn_copy: DataPaths) -> None:
    edit_json(drawn_copy.annotations, lambda root: root.pop("annotations"))
    with pytest.raises(DatasetError, match=r"\"annotations\" is missing"):
        read_annotations(drawn_copy.annotations)
    entries = read_annotations(drawn_copy.annotations, SKELETON, labelled=False)
    assert len(entries) == 8
    assert entries.keypoints.shape == (0, 3, 3)
