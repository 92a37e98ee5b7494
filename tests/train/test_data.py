"""Samples and batches: reproducible whatever the workers, and a broken image costs one image."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tests.train.drawn_data import DataPaths, draw_data_set, edit_json
from train.config import AugmentConfig
from train.data import BadSample, BadSamples, DetectionDataset, Sample, collate, make_loader, open_dataset
from train.errors import DatasetError
from train.transforms import move_boxes


def dataset_of(data: DataPaths, augment: AugmentConfig | None = None, seed: int = 0) -> DetectionDataset:
    return open_dataset(data.annotations, data.images, 64, augment=augment, seed=seed)


def good(dataset: DetectionDataset, key: tuple[int, int]) -> Sample:
    sample = dataset[key]
    assert isinstance(sample, Sample)
    return sample


def test_evaluation_sample_shows_every_box_where_its_rectangle_is(drawn: DataPaths) -> None:
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
    alone, shared = ([*make_loader(dataset, batches, workers, pin=False)] for workers in (0, 2))
    for one, other in zip(alone, shared, strict=True):
        for name in one.keys() - {"bad"}:
            assert torch.equal(one[name], other[name])


class Probe(Dataset):
    """Where in memory a process has the annotations: the device and inode of the mapping that holds each array."""

    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, set[str], Sample | BadSample]:
        return os.getpid(), {mapping_of(value) for value in arrays_of(self.dataset)}, self.dataset[key]


def arrays_of(dataset: DetectionDataset) -> list[np.ndarray]:
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
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
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
        open_dataset(drawn.annotations, tmp_path / "absent", 64)
    with pytest.raises(DatasetError, match="holds none of the 8 images"):
        open_dataset(drawn.annotations, tmp_path, 64)


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
