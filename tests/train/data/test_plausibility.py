"""Doubtful annotations in a list: they are found, counted, named, and mended by the lines that come with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdnkernels.models import COCO_PERSON
from mdnkernels.train.data.coco_file import read_annotations
from mdnkernels.train.data.plausibility import Doubt, find_doubts
from tests.train.drawn_data import DataPaths, draw_data_set, edit_json

Root = dict[str, Any]


@pytest.fixture
def data(tmp_path: Path) -> DataPaths:
    """Write forty pictures, enough boxes that only one reading of their numbers fits."""
    return draw_data_set(tmp_path / "data", 40)


def doubts_of(path: Path) -> list[Doubt]:
    annotations = read_annotations(path)
    return find_doubts(annotations, annotations.sizes)


def the_doubt(path: Path) -> Doubt:
    (doubt,) = doubts_of(path)
    return doubt


def boxes(form: Callable[..., list[float]]) -> Callable[[Root], None]:
    """Return a change of each box to what `form` makes of x, y, width, height and the image's width and height.

    The areas stay as they are.
    """

    def change(root: Root) -> None:
        size = {one["id"]: (one["width"], one["height"]) for one in root["images"]}
        for one in root["annotations"]:
            one["bbox"] = form(*one["bbox"], *size[one["image_id"]])

    return change


def with_areas(change: Callable[[Root], None]) -> Callable[[Root], None]:
    """Return `change` followed by a computation of the areas from the boxes that it leaves."""

    def both(root: Root) -> None:
        change(root)
        for one in root["annotations"]:
            one["area"] = one["bbox"][2] * one["bbox"][3]

    return both


def without_areas(change: Callable[[Root], None]) -> Callable[[Root], None]:
    def both(root: Root) -> None:
        change(root)
        for one in root["annotations"]:
            del one["area"]

    return both


HABITS = {
    "corners x1": boxes(lambda x, y, w, h, width, height: [x, y, x + w, y + h]),
    "centre x, centre y, width, height in place": boxes(lambda x, y, w, h, width, height: [x + w / 2, y + h / 2, w, h]),
    "pixels: x, y, width, height": boxes(
        lambda x, y, w, h, width, height: [x / width, y / height, w / width, h / height]
    ),
    "pixels: corners": boxes(
        lambda x, y, w, h, width, height: [x / width, y / height, (x + w) / width, (y + h) / height]
    ),
    "pixels: centre": boxes(
        lambda x, y, w, h, width, height: [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
    ),
}


def mended(path: Path, doubt: Doubt) -> Root:
    root = json.loads(path.read_text())
    exec("\n".join(doubt.mend), {"root": root})
    path.write_text(json.dumps(root))
    return root


@pytest.mark.parametrize("areas", [lambda change: change, with_areas, without_areas], ids=["true", "follow", "none"])
@pytest.mark.parametrize("habit", HABITS)
def test_habit_of_a_file_is_named_and_mended(data: DataPaths, habit: str, areas: Callable[..., Any]) -> None:
    before = json.loads(data.annotations.read_text())["annotations"]
    assert doubts_of(data.annotations) == []
    edit_json(data.annotations, areas(HABITS[habit]))
    doubt = the_doubt(data.annotations)
    assert doubt.kind == ("fractions" if habit.startswith("pixels") else "outside")
    assert doubt.count == (len(before) if doubt.kind == "fractions" else doubt.count)
    assert doubt.looks_like is not None
    assert habit in doubt.looks_like
    assert " or " not in doubt.looks_like
    after = mended(data.annotations, doubt)["annotations"]
    assert doubts_of(data.annotations) == []
    for one, original in zip(after, before, strict=True):
        assert one["bbox"] == pytest.approx(original["bbox"])
        assert one.get("area", original["area"]) == pytest.approx(original["area"])


def test_corners_inside_their_images_are_told_by_their_areas(data: DataPaths) -> None:
    def change(root: Root) -> None:
        HABITS["corners x1"](root)
        for one in root["images"]:
            one["width"] = one["height"] = 200

    edit_json(data.annotations, change)
    doubt = the_doubt(data.annotations)
    assert (doubt.kind, doubt.count) == ("corners", len(read_annotations(data.annotations).boxes))
    assert doubt.looks_like is not None
    assert doubt.looks_like.startswith("corners")


def test_boxes_of_larger_pictures_and_of_images_with_exchanged_sides(data: DataPaths) -> None:
    copy = data.annotations.read_text()
    edit_json(data.annotations, boxes(lambda x, y, w, h, width, height: [2.5 * x, 2.5 * y, 2.5 * w, 2.5 * h]))
    doubt = the_doubt(data.annotations)
    assert doubt.looks_like is not None
    assert "larger pictures" in doubt.looks_like
    assert "they reach 2.4" in doubt.looks_like
    data.annotations.write_text(copy)

    def swap(root: Root) -> None:
        for one in root["images"]:
            one["width"], one["height"] = one["height"], one["width"]

    edit_json(data.annotations, swap)
    doubt = the_doubt(data.annotations)
    assert doubt.looks_like is not None
    assert "changed places" in doubt.looks_like
    mended(data.annotations, doubt)
    assert doubts_of(data.annotations) == []


def test_single_boxes_outside_are_counted_and_no_habit(data: DataPaths) -> None:
    def change(root: Root) -> None:
        root["annotations"][0]["bbox"] = [200, 200, 20, 20]
        root["annotations"][3]["bbox"] = [70, 10, 12, 8]
        root["annotations"][5]["bbox"] = [-1.5, 10, 12, 8]
        root["annotations"][6]["bbox"] = [69.5, -1, 11.5, 8]  # as COCO rounds
        root["annotations"][7]["bbox"] = [0.2, 0.3, 0.5, 0.5]

    edit_json(data.annotations, change)
    fractions, outside = doubts_of(data.annotations)
    assert (fractions.kind, fractions.count, fractions.looks_like) == ("fractions", 1, None)
    assert (outside.kind, outside.count, outside.looks_like) == ("outside", 3, None)
    assert [example.split(".")[0] for example in outside.examples] == [f"annotations[{i}]" for i in (0, 3, 5)]
    assert "1 wholly outside" in outside.text
    assert "[70, 10, 12, 8] in image" in outside.examples[1]


def test_people_cut_off_at_the_border_are_no_habit(data: DataPaths) -> None:
    """Boxes of whole bodies, as CrowdHuman has them, reach far beyond their images."""
    edit_json(data.annotations, boxes(lambda x, y, w, h, width, height: [x - 0.3 * w, y - 0.2 * h, 1.6 * w, 1.8 * h]))
    doubt = the_doubt(data.annotations)
    assert doubt.count > 0.2 * len(read_annotations(data.annotations).boxes)
    assert doubt.looks_like is None


def test_file_under_two_ids_is_found_and_merged(data: DataPaths) -> None:
    def change(root: Root) -> None:
        root["images"].append({**root["images"][2], "id": 1000, "file_name": "./003.jpg"})
        root["annotations"][0]["image_id"] = 1000
        root["annotations"][0]["bbox"] = [3, 4, 9, 9]

    edit_json(data.annotations, change)
    doubt = the_doubt(data.annotations)
    assert (doubt.kind, doubt.count, doubt.looks_like) == ("file_twice", 1, None)
    assert doubt.examples == ("003.jpg: images 3, 1000",)
    root = mended(data.annotations, doubt)
    assert [one["id"] for one in root["images"]] == list(range(1, 41))
    assert root["annotations"][0]["image_id"] == 3
    assert doubts_of(data.annotations) == []


def test_an_image_entry_for_each_annotation_is_named(data: DataPaths) -> None:
    def change(root: Root) -> None:
        of = {one["id"]: one for one in root["images"]}
        root["images"] = [{**of[one["image_id"]], "id": one["id"]} for one in root["annotations"]]
        for one in root["annotations"]:
            one["image_id"] = one["id"]

    expected = json.loads(data.annotations.read_text())["annotations"]
    edit_json(data.annotations, change)
    doubt = the_doubt(data.annotations)
    assert doubt.looks_like == "an entry of its own in images for each annotation"
    root = mended(data.annotations, doubt)
    names = {one["id"]: one["file_name"] for one in root["images"]}
    assert [names[one["image_id"]] for one in root["annotations"]] == [f"{one['image_id']:03d}.jpg" for one in expected]
    assert doubts_of(data.annotations) == []


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_same_box_twice_is_found_and_removed(data: DataPaths, share: float) -> None:
    whole = json.loads(data.annotations.read_text())["annotations"]
    count = round(share * len(whole))

    def change(root: Root) -> None:
        again = [{**one, "id": one["id"] + 1000} for one in whole[:count]]
        other = {**whole[0], "id": 5000, "category_id": {3: 7, 7: 9, 9: 3}[whole[0]["category_id"]]}
        root["annotations"] = [*whole, *again, other]

    edit_json(data.annotations, change)
    doubt = the_doubt(data.annotations)
    assert (doubt.kind, doubt.count) == ("box_twice", count)
    assert doubt.examples[0].endswith("as annotations[0]")
    assert doubt.examples[0].startswith(f"annotations[{len(whole)}].bbox")
    assert (doubt.looks_like is None) == (share < 1)
    root = mended(data.annotations, doubt)
    assert [one["id"] for one in root["annotations"]] == [*(one["id"] for one in whole), 5000]
    assert doubts_of(data.annotations) == []


def test_areas_that_are_not_filled_in_are_found_and_computed(data: DataPaths) -> None:
    before = json.loads(data.annotations.read_text())["annotations"]
    edit_json(
        data.annotations, lambda root: [one.update(area=number % 2) for number, one in enumerate(root["annotations"])]
    )
    doubt = the_doubt(data.annotations)
    assert (doubt.kind, doubt.count) == ("area", len(before))
    assert doubt.looks_like == "areas that are not filled in"
    mended(data.annotations, doubt)
    assert json.loads(data.annotations.read_text())["annotations"] == before
    edit_json(data.annotations, lambda root: root["annotations"][0].update(area=1))
    doubt = the_doubt(data.annotations)
    assert (doubt.count, doubt.looks_like) == (1, None)
    edit_json(data.annotations, lambda root: root["annotations"][0].update(area=0.5, bbox=[3, 3, 5, 9]))
    assert doubts_of(data.annotations) == []


def test_list_without_annotations_raises_no_doubt(data: DataPaths) -> None:
    edit_json(data.annotations, lambda root: root.update(annotations=[]))
    assert doubts_of(data.annotations) == []


def test_sizes_that_nobody_knows_raise_no_doubt(data: DataPaths) -> None:
    edit_json(data.annotations, lambda root: root["annotations"][0].update(bbox=[900, 900, 9, 9]))
    annotations = read_annotations(data.annotations)
    assert find_doubts(annotations, np.zeros_like(annotations.sizes)) == []


@pytest.mark.parametrize("kind", ["instances", "person_keypoints"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_cocos_own_files_raise_no_doubt(coco_mini: Path, split: str, kind: str) -> None:
    path = coco_mini / "annotations" / f"{kind}_{split}2017.json"
    annotations = read_annotations(path, COCO_PERSON if kind == "person_keypoints" else None)
    assert find_doubts(annotations, annotations.sizes) == []
    assert annotations.inside() is annotations
    assert annotations.skipped == annotations.without_keypoints == annotations.unused_categories == ()
