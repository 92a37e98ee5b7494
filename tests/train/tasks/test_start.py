"""A new run starts at its training objects, as the augmentation shows them on average."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdnkernels.models import Network, build_model
from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.data.coco import Category
from mdnkernels.train.data.sets import TrainingSet
from mdnkernels.train.data.transforms import draw_augmentation, invert, mirrors, move_boxes, move_points
from mdnkernels.train.errors import DatasetError
from mdnkernels.train.loop.engine import fit, open_training_set
from mdnkernels.train.run.checkpoint import load_checkpoint
from mdnkernels.train.run.log import read_log
from mdnkernels.train.tasks import make_task
from mdnkernels.train.tasks.base import Task
from mdnkernels.train.tasks.start import SeenObjects, describe_start, seen_objects
from tests.train.animals import draw_animals
from tests.train.drawn_data import DataPaths, edit_json, tiny_fit


def opened(config: FitConfig) -> tuple[TrainingSet, Task]:
    training = open_training_set(config)
    return training, make_task(config.model.task, training.annotations.categories, training.annotations.skeleton)


def augmented(training: TrainingSet, draws: int = 4000) -> list[tuple[np.ndarray, int]]:
    """Draw windows of the first image: (input from image, 0 or 1 for mirrored) each."""
    entry = training.annotations[0]
    random = np.random.default_rng(5)
    places = [
        draw_augmentation(random, (entry.width, entry.height), training.size, training.augment) for _ in range(draws)
    ]
    return [(invert(place.matrix), int(mirrors(place.matrix))) for place in places]


def test_sizes_are_the_mean_over_the_augmentations_windows(drawn: DataPaths, tmp_path: Path) -> None:
    training, task = opened(tiny_fit(drawn, tmp_path / "run"))
    sample = task.sample(seen_objects(training, stride=4))
    boxes = training.annotations[0].boxes
    moved = np.mean([move_boxes(boxes, matrix) for matrix, _ in augmented(training)], axis=0)
    expected = (moved[:, 2:] - moved[:, :2]) / 4
    np.testing.assert_allclose(sample.target[: len(boxes)].numpy(), expected, rtol=0.02)
    assert sample.observed.all()
    assert sample.label.tolist() == training.annotations.labels.tolist()
    np.testing.assert_allclose(sample.feature.numpy(), np.log(sample.target.numpy()))


def test_without_augmentation_objects_have_their_own_size(drawn: DataPaths, tmp_path: Path) -> None:
    training, task = opened(tiny_fit(drawn, tmp_path / "run", augment=False))
    sample = task.sample(seen_objects(training, stride=4))
    boxes = training.annotations.boxes  # of images 80 pixels wide, in an input of 64
    np.testing.assert_allclose(sample.target.numpy(), (boxes[:, 2:] - boxes[:, :2]) * 64 / 80 / 4, rtol=1e-12)


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
def test_poses_are_those_of_the_images_that_training_sees(tmp_path: Path, flip: float) -> None:
    data = draw_animals(tmp_path / "animals")
    config = tiny_fit(data, tmp_path / "run", task="pose", flip=flip, crop_scales=(1.0,), crop_border=0)
    training, task = opened(config)
    sample = task.sample(seen_objects(training, stride=4))
    skeleton = task.skeleton
    assert skeleton is not None
    count = len(training.annotations.boxes)
    assert len(sample.target) == count * (2 if flip == 0.5 else 1)
    seen = set()
    for matrix, mirrored in augmented(training, draws=30):
        entry = training.annotations[0]
        boxes = move_boxes(entry.boxes, matrix)
        keypoints = entry.keypoints[:, list(skeleton.mirrored)] if mirrored else entry.keypoints
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        place = (move_points(keypoints[..., :2], matrix) - centre[:, None]) / 4 + 0.5
        first = count * (mirrored if flip == 0.5 else 0)
        rows = slice(first, first + len(boxes))
        known = np.repeat(keypoints[..., 2] > 0, 2, axis=1)
        assert (sample.observed[rows].numpy() == known).all()
        got = sample.target[rows].numpy()
        np.testing.assert_allclose(got[known], place.reshape(len(boxes), -1)[known], rtol=1e-6, atol=1e-6)
        size = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))[:, None]
        feature = sample.feature[rows].numpy()
        np.testing.assert_allclose(feature[known], ((got - 0.5) * 4 / size)[known], rtol=1e-6, atol=1e-6)
        seen.add(mirrored)
    assert seen == {0.0: {0}, 0.5: {0, 1}, 1.0: {1}}[flip]


def test_a_size_that_the_list_does_not_say_is_read_from_the_file(drawn_copy: DataPaths, tmp_path: Path) -> None:
    config = tiny_fit(drawn_copy, tmp_path / "run")
    listed = seen_objects(opened(config)[0], 4)

    def forget(root: dict[str, Any]) -> None:
        for image in root["images"]:
            del image["width"], image["height"]

    edit_json(drawn_copy.annotations, forget)
    read = seen_objects(opened(config)[0], 4)
    for one, other in zip(listed, read, strict=True):
        np.testing.assert_array_equal(one, other)
    for image in drawn_copy.images.iterdir():
        image.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"no width and height .* --start zero"):
        seen_objects(opened(config)[0], 4)


def start_of(run: Path) -> dict[str, Any] | None:
    records = [record for record in read_log(run / "log.jsonl") if record["kind"] == "start"]
    assert len(records) <= 1
    return records[0] if records else None


def biases(model: dict[str, torch.Tensor], head: str) -> torch.Tensor:
    return model[f"heads.0.heads.{head}.output.bias"]


@pytest.fixture(scope="module")
def stopped(drawn: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train one step at a rate that moves nothing."""
    return fit(tiny_fit(drawn, tmp_path_factory.mktemp("start") / "run", lr=1e-12, epochs=1, stop_after=1))


def test_a_run_says_where_it_starts_and_starts_there(stopped: Path) -> None:
    record = start_of(stopped)
    assert record is not None
    model = load_checkpoint(stopped / "checkpoints" / "last.pt").model
    torch.testing.assert_close(biases(model, "loc"), torch.tensor(record["loc"]).flatten(), atol=1e-5, rtol=0)
    assert np.sum(record["share"]) == pytest.approx(1)
    assert np.min(record["loc"]) > 1


def test_a_run_that_goes_on_keeps_its_weights(stopped: Path) -> None:
    before = load_checkpoint(stopped / "checkpoints" / "last.pt").model
    config = load_checkpoint(stopped / "checkpoints" / "last.pt").config
    fit(dataclasses.replace(config, resume=stopped))
    after = load_checkpoint(stopped / "checkpoints" / "last.pt").model
    for head in ("logits", "loc", "scale"):
        name = f"heads.0.heads.{head}.output.weight"
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)
    start_of(stopped)  # one record, or none


@pytest.mark.parametrize("components", [0, 2])
def test_start_zero_changes_nothing_of_the_fresh_network(drawn: DataPaths, tmp_path: Path, components: int) -> None:
    config = tiny_fit(
        drawn, tmp_path / "run", start="zero", components=components, lr=1e-12, epochs=1, stop_after=1, seed=3
    )
    run = fit(config)
    torch.manual_seed(3)
    fresh: Network = build_model("hourglass_small", num_classes=3, components=components)
    for name, value in load_checkpoint(run / "checkpoints" / "last.pt").model.items():
        if name.startswith("heads."):
            torch.testing.assert_close(value, fresh.state_dict()[name], atol=1e-6, rtol=0)
    assert start_of(run) is None


@pytest.mark.parametrize("components", [0, 1, 3])
def test_one_object_of_one_class_trains(drawn_copy: DataPaths, tmp_path: Path, components: int) -> None:
    def keep_one(root: dict[str, Any]) -> None:
        root["annotations"] = root["annotations"][:1]
        root["categories"] = [c for c in root["categories"] if c["id"] == root["annotations"][0]["category_id"]]
        root["images"] = [i for i in root["images"] if i["id"] == root["annotations"][0]["image_id"]]

    edit_json(drawn_copy.annotations, keep_one)
    run = fit(tiny_fit(drawn_copy, tmp_path / "run", components=components, epochs=1))
    steps = [record for record in read_log(run / "log.jsonl") if record["kind"] == "step"]
    assert all(np.isfinite(record["loss/total"]) for record in steps)


def test_lines_for_people_say_the_boxes_sizes_and_not_the_34_numbers_of_a_pose(tmp_path: Path) -> None:
    objects = SeenObjects(
        boxes=np.array([[0.0, 0.0, 8.0, 16.0], [0.0, 0.0, 40.0, 80.0]]),
        labels=np.zeros(2, np.int64),
        keypoints=np.zeros((2, 0, 3)),
        cells=np.full(2, 0.25),
        mirrored=(False,),
    )
    task = make_task("detection", [Category(1, "a")])
    model = build_model("hourglass_small", components=2)
    lines = describe_start(model.regression.start(task.sample(objects)), "size")
    assert [line.partition(", sigma")[0] for line in lines] == [
        "component 0 starts at 50.0 % of the objects",
        "component 1 starts at 50.0 % of the objects",
    ]
    assert [line.rpartition(", ")[2] for line in lines] == ["size 2 x 4 output cells", "size 10 x 20 output cells"]
    base = build_model("hourglass_small", components=0)
    assert describe_start(base.regression.start(task.sample(objects)), "size") == [
        "the base starts at the mean of the objects, size 6 x 12 output cells"
    ]
