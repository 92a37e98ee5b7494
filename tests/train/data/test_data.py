"""Samples and batches: reproducible whatever the workers, and a broken image costs one image."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mdnkernels.models import Skeleton
from mdnkernels.train.config.options import AugmentConfig
from mdnkernels.train.data.coco import CocoAnnotations
from mdnkernels.train.data.coco_file import read_annotations
from mdnkernels.train.data.sets import (
    BadSample,
    BadSamples,
    EvaluationSet,
    Sample,
    TrainingSet,
    collate,
    collate_views,
    evaluation_loader,
    open_annotations,
    training_loader,
)
from mdnkernels.train.data.transforms import Views, move_boxes, move_points
from mdnkernels.train.errors import DatasetError
from tests.train.drawn_data import DataPaths, draw_data_set, edit_json

NOTHING = AugmentConfig(augment=False)


def dataset_of(data: DataPaths, augment: AugmentConfig = NOTHING, seed: int = 0) -> TrainingSet:
    return TrainingSet(open_annotations(data.annotations), data.images, 64, augment=augment, seed=seed)


def good(dataset: TrainingSet, key: tuple[int, int]) -> Sample:
    sample = dataset[key]
    assert isinstance(sample, Sample)
    return sample


def test_sample_shows_every_box_where_its_rectangle_is(drawn: DataPaths) -> None:
    dataset = dataset_of(drawn)
    for index in range(len(dataset)):
        sample = good(dataset, (0, index))
        back = move_boxes(sample.boxes, sample.transform)
        np.testing.assert_allclose(back, dataset.annotations[index].boxes, atol=1e-4)
        # The last rectangle of an image is on top of the others, and of one pure colour.
        x1, y1, x2, y2 = np.round(sample.boxes[-1]).astype(int)
        inside = sample.image[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].astype(int)
        channel = int(inside[0, 0].argmax())
        assert (inside.argmax(2) == channel).all()


def test_sample_is_a_function_of_seed_epoch_and_index(drawn: DataPaths) -> None:
    first, again = (dataset_of(drawn, AugmentConfig(), seed=4) for _ in range(2))
    for key in ((0, 3), (1, 3), (7, 0)):
        for one, other in zip(good(first, key), good(again, key), strict=True):
            np.testing.assert_array_equal(one, other)
    different = dataset_of(drawn, AugmentConfig(), seed=5)
    assert (good(first, (0, 3)).transform != good(different, (0, 3)).transform).any()
    assert (good(first, (0, 3)).transform != good(first, (1, 3)).transform).any()


def test_workers_do_not_change_the_batches(drawn: DataPaths) -> None:
    dataset = dataset_of(drawn, AugmentConfig())
    batches = [[(2, 0), (2, 5)], [(2, 1), (2, 7)]]
    alone, shared = ([*training_loader(dataset, batches, workers, pin=False)] for workers in (0, 2))
    for one, other in zip(alone, shared, strict=True):
        for name in one.keys() - {"bad"}:
            assert torch.equal(one[name], other[name])


class Probe(Dataset):
    """A data set that tells where in memory a process has the annotations.

    The place of an array is the device and inode of the mapping that holds it.
    """

    def __init__(self, dataset: TrainingSet) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, set[str], Sample | BadSample]:
        return os.getpid(), {mapping_of(value) for value in arrays_of(self.dataset)}, self.dataset[key]


def arrays_of(dataset: TrainingSet) -> list[np.ndarray]:
    return [value for value in vars(dataset.annotations).values() if isinstance(value, np.ndarray)]


def mapping_of(array: np.ndarray) -> str:
    address = array.ctypes.data
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions, _, device, inode = line.split()[:5]
        begin, end = (int(side, 16) for side in span.split("-"))
        if begin <= address < end:
            return f"{permissions[-1]} {device} {inode}"
    raise AssertionError(f"no mapping holds {address:x}")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize("start", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_that_are_not_forked_share_the_annotations(drawn: DataPaths, start: str) -> None:
    dataset = dataset_of(drawn, AugmentConfig())
    keys = [[(0, index)] for index in range(4)]
    loader = DataLoader(
        Probe(dataset), batch_sampler=keys, num_workers=2, collate_fn=list, multiprocessing_context=start
    )
    found = [item for items in loader for item in items]
    assert len({process for process, _, _ in found} | {os.getpid()}) == 3
    (mapping,) = set.union(*(mappings for _, mappings, _ in found))
    assert mapping.startswith("s ")  # shared, not private
    for index, (_, _, sample) in enumerate(found):
        for one, other in zip(sample, good(dataset, (0, index)), strict=True):
            np.testing.assert_array_equal(one, other)


def test_data_set_without_boxes_is_pickled_with_its_content(drawn_copy: DataPaths) -> None:
    edit_json(drawn_copy.annotations, lambda root: root.update(annotations=[]))
    dataset = dataset_of(drawn_copy)
    copy = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(dataset))))
    for one, other in zip(arrays_of(dataset), arrays_of(copy), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert len(good(copy, (0, 1)).labels) == 0


def test_augmented_boxes_lie_inside_and_have_a_size(drawn: DataPaths) -> None:
    dataset = dataset_of(drawn, AugmentConfig())
    for epoch in range(20):
        for index in range(len(dataset)):
            boxes = good(dataset, (epoch, index)).boxes
            assert (boxes >= 0).all()
            assert (boxes <= 64).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_batch_has_the_stated_shapes_and_padding(drawn_copy: DataPaths) -> None:
    edit_json(drawn_copy.annotations, lambda root: root.update(annotations=root["annotations"][:1]))
    dataset = dataset_of(drawn_copy)
    batch = collate([dataset[0, 0], dataset[0, 1]])
    assert batch["image"].shape == (2, 3, 64, 64)
    assert batch["image"].dtype == torch.uint8
    assert batch["labels"].tolist() == [[good(dataset, (0, 0)).labels[0]], [-1]]
    assert batch["boxes"].shape == (2, 1, 4)
    assert batch["transform"].dtype == torch.float64
    assert batch["original_size"].tolist() == [[80, 72], [80, 64]]
    none = collate([dataset[0, 1]])
    assert none["labels"].tolist() == [[-1]]


def test_crowds_are_not_trained_on(drawn_copy: DataPaths) -> None:
    before = len(good(dataset_of(drawn_copy), (0, 0)).labels)
    edit_json(drawn_copy.annotations, lambda root: root["annotations"][0].update(iscrowd=1))
    assert len(good(dataset_of(drawn_copy), (0, 0)).labels) == before - 1


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no such file"), (b"", "cannot be decoded"), (b"\xff\xd8\xff\xe0junk", "cannot be")]
)
def test_broken_image_is_left_out_of_its_batch(drawn_copy: DataPaths, content: bytes | None, reason: str) -> None:
    broken = drawn_copy.images / "002.jpg"
    broken.unlink()
    if content is not None:
        broken.write_bytes(content)
    dataset = dataset_of(drawn_copy)
    batch = collate([dataset[0, index] for index in range(3)])
    assert batch["image_id"].tolist() == [1, 3]
    (bad,) = batch["bad"]
    assert (bad.image_id, bad.file) == (2, str(broken))
    assert reason in bad.reason
    assert len(collate([dataset[0, 1]])["image"]) == 0


def test_truncated_jpeg_is_left_out(drawn_copy: DataPaths) -> None:
    broken = drawn_copy.images / "003.jpg"
    broken.write_bytes(broken.read_bytes()[:-200])
    sample = dataset_of(drawn_copy)[0, 2]
    assert isinstance(sample, BadSample)
    assert "truncated" in sample.reason


def test_image_of_another_size_than_listed_is_left_out(drawn_copy: DataPaths) -> None:
    edit_json(drawn_copy.annotations, lambda root: root["images"][0].update(width=60))
    sample = dataset_of(drawn_copy)[0, 0]
    assert isinstance(sample, BadSample)
    assert "is 80 x 72 pixels" in sample.reason
    assert "60 x 72" in sample.reason


def test_missing_folder_and_empty_folder_are_named(drawn: DataPaths, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="absent: there is no such folder"):
        dataset_of(DataPaths(tmp_path / "absent", drawn.annotations))
    with pytest.raises(DatasetError, match="holds none of the 8 images"):
        dataset_of(DataPaths(tmp_path, drawn.annotations))


def test_bad_samples_warn_once_a_file_and_stop_when_many(warned: list[str]) -> None:
    bad = BadSamples(200, Path("list.json"))
    for _ in range(3):
        bad.add([BadSample(7, "seven.jpg", "cut off")])
    assert len(bad) == 1
    assert warned == ["skipped image seven.jpg: cut off (1 so far)"]
    bad.add([BadSample(i, f"{i}.jpg", "cut off") for i in range(19)])
    with pytest.raises(DatasetError, match=r"list\.json: images: 21 of 200 cannot be read.*seven\.jpg: cut off"):
        bad.add([BadSample(99, "99.jpg", "cut off")])


def test_skipped_annotations_are_counted_in_a_warning(tmp_path: Path, warned: list[str]) -> None:
    data = draw_data_set(tmp_path)
    edit_json(data.annotations, lambda root: [entry.update(bbox=[0, 0, 0, 9]) for entry in root["annotations"][:3]])
    dataset_of(data)
    assert len(warned) == 1
    assert "skipped 3 annotations" in warned[0]


def test_a_habit_of_the_whole_file_and_boxes_outside_are_warned_of(tmp_path: Path, warned: list[str]) -> None:
    data = draw_data_set(tmp_path)
    whole = len(open_annotations(data.annotations).boxes)
    assert warned == []

    def corners(root: dict[str, Any]) -> None:
        for entry in root["annotations"]:
            x, y, w, h = entry["bbox"]
            entry["bbox"] = [x, y, x + w, y + h]
        root["annotations"].append({**root["annotations"][0], "id": 1000, "bbox": [90, 90, 95, 95]})

    edit_json(data.annotations, corners)
    assert len(open_annotations(data.annotations).boxes) == whole
    assert len(warned) == 2
    assert "skipped 1 annotations" in warned[1]
    assert "lies wholly outside" in warned[1]
    assert "looks like corners x1, y1, x2, y2 in place of x, y, width, height" in warned[0]
    assert "check-data" in warned[0]


FIGURE = Skeleton(("head", "left", "right"), (0.1, 0.1, 0.1), flip_pairs=((1, 2),))


def figures(data: DataPaths) -> CocoAnnotations:
    """Make a figure of each rectangle, with the head in its middle and left and right in its upper corners."""

    def change(root: dict[str, Any]) -> None:
        root["categories"] = [{"id": 9, "name": "figure", "keypoints": list(FIGURE.names)}]
        for entry in root["annotations"]:
            x, y, w, h = entry["bbox"]
            entry |= {"category_id": 9, "keypoints": [x + w / 2, y + h / 2, 2, x, y, 1, x + w, y, 2]}

    edit_json(data.annotations, change)
    return read_annotations(data.annotations, FIGURE)


@pytest.mark.parametrize("rotate", [0.0, 1.0])
def test_keypoints_move_with_their_boxes_and_left_stays_left(drawn_copy: DataPaths, rotate: float) -> None:
    augment = AugmentConfig(flip=0.5, rotate=rotate)
    dataset = TrainingSet(figures(drawn_copy), drawn_copy.images, 64, augment=augment, skeleton=FIGURE)
    flips, angles = [], []
    for epoch in range(4):
        for index in range(len(dataset)):
            sample = good(dataset, (epoch, index))
            turn = sample.transform[:, :2]
            flips.append(bool(np.linalg.det(turn) < 0))
            angles.append(np.degrees(np.arctan2(abs(turn[0, 1]), abs(turn[0, 0]))))
            whole = dataset.annotations[index]
            corners = {tuple(np.round(points.ravel(), 3)) for points in whole.keypoints}
            for points in sample.keypoints:
                back = np.concatenate((move_points(points[:, :2], sample.transform), points[:, 2:]), axis=1)
                # In a mirrored image the figure's left is where its right was, with the right's visibility.
                back = back[[0, 2, 1]] if flips[-1] else back
                assert min(np.abs(np.array(one) - back.ravel()).max() for one in corners) < 1e-2
    assert {True, False} == set(flips)
    assert (max(angles) > 5) == (rotate > 0)


def test_a_rotated_box_holds_its_keypoints(drawn_copy: DataPaths) -> None:
    augment = AugmentConfig(rotate=1.0, crop_scales=(2.0,), crop_border=40)
    dataset = TrainingSet(figures(drawn_copy), drawn_copy.images, 128, augment=augment, skeleton=FIGURE)
    for index in range(len(dataset)):
        sample = good(dataset, (0, index))
        for (x1, y1, x2, y2), points in zip(sample.boxes, sample.keypoints, strict=True):
            inside = points[((points[:, :2] > 0) & (points[:, :2] < 128)).all(1)]
            assert (inside[:, 0] > x1 - 1e-3).all()
            assert (inside[:, 0] < x2 + 1e-3).all()
            assert (inside[:, 1] > y1 - 1e-3).all()
            assert (inside[:, 1] < y2 + 1e-3).all()


@pytest.mark.parametrize("resolution", ["fixed", "original"])
def test_evaluation_shows_an_image_at_every_scale(drawn: DataPaths, resolution: Any) -> None:
    views = Views(64, 16, resolution, (0.5, 1.0, 1.5))
    dataset = EvaluationSet(open_annotations(drawn.annotations), drawn.images, views)
    batches = [[0], [1]] if resolution == "original" else [[0, 1]]
    for scales in evaluation_loader(dataset, batches, workers=0, pin=False):
        sides = [tuple(batch["image"].shape[2:]) for batch in scales]
        if resolution == "fixed":
            assert sides == [(32, 32), (64, 64), (96, 96)]
        else:
            width, height = scales[0]["original_size"][0].tolist()
            assert sides == [
                tuple(16 * math.ceil(side * scale / 16) for side in (height, width)) for scale in (0.5, 1, 1.5)
            ]
        for batch in scales:
            assert batch["image_id"].tolist() == scales[0]["image_id"].tolist()
            for row, image_id in enumerate(batch["image_id"].tolist()):
                real = batch["labels"][row] >= 0
                back = move_boxes(batch["boxes"][row][real].double().numpy(), batch["transform"][row].numpy())
                np.testing.assert_allclose(back, dataset.annotations[image_id - 1].boxes, atol=1e-4)


def test_a_broken_image_is_left_out_of_every_scale(drawn_copy: DataPaths) -> None:
    (drawn_copy.images / "001.jpg").write_bytes(b"")
    dataset = EvaluationSet(open_annotations(drawn_copy.annotations), drawn_copy.images, Views(64, 16, "fixed", (1, 2)))
    one, two = collate_views([dataset[0], dataset[1]])
    assert one["image_id"].tolist() == two["image_id"].tolist() == [2]
    assert [bad.image_id for bad in one["bad"]] == [bad.image_id for bad in two["bad"]] == [1]
    (nothing,) = collate_views([dataset[0]])
    assert len(nothing["image"]) == 0
