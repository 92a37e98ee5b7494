"""Poses of an animal with five keypoints: trained, resumed, evaluated, predicted, drawn, checked."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models import Skeleton, build_model, placed
from tests.train.animals import COLOURS, LINKS, NAMES, draw_animals
from tests.train.drawn_data import DataPaths, edit_json, tiny_fit
from tests.train.loop.test_engine import last, resume
from tests.train.tasks.test_round_trip import perfect_pose_maps
from train.__main__ import main, parse
from train.config.commands import CheckDataConfig, EvaluateConfig, FitConfig, PredictConfig
from train.config.options import AugmentConfig, InferenceConfig
from train.data.check import check_data
from train.data.coco import CocoAnnotations
from train.data.coco_file import read_annotations
from train.data.sets import EvaluationSet, Sample, TrainingSet, evaluation_loader
from train.data.skeletons import SkeletonInFile
from train.data.transforms import Views
from train.errors import CheckpointError, ConfigError, DatasetError
from train.inference.evaluation import evaluate
from train.inference.prediction import predict
from train.loop.engine import fit
from train.loop.network import restore_network
from train.tasks.pose import PoseTask

SIGMAS = (0.03, 0.05, 0.05, 0.1, 0.08)
SKELETON = Skeleton(NAMES, SIGMAS, ((1, 2),), LINKS)


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> DataPaths:
    return draw_animals(tmp_path_factory.mktemp("animals"))


@pytest.fixture(scope="module")
def run(animals: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train three steps, evaluate, and remove the training annotations."""
    path = tmp_path_factory.mktemp("runs") / "run"
    training = draw_animals(path.parent / "training")
    val = {"val_images": animals.images, "val_annotations": animals.annotations}
    fit(tiny_fit(training, path, task="pose", epochs=2, stop_after=3, keypoint_sigmas=SIGMAS, **val))
    resume(path)
    training.annotations.unlink()
    return path


def read(path: Path, sigmas: tuple[float, ...] = SIGMAS) -> CocoAnnotations:
    return read_annotations(path, SkeletonInFile(sigmas))


def test_the_run_remembers_the_skeleton(run: Path) -> None:
    assert last(run).skeleton == SKELETON
    model, task = restore_network(last(run))
    assert model.skeleton == task.skeleton == SKELETON
    assert model.heads[-1].heads["keypoint_heatmap"].output.out_channels == 5


@pytest.mark.parametrize(
    "inference", [InferenceConfig(flip=True, scales=(0.5, 1.0)), InferenceConfig(component=1, flip_stronger=True)]
)
def test_it_is_evaluated_without_the_training_data(run: Path, tmp_path: Path, inference: InferenceConfig) -> None:
    assert set(PoseTask.metrics) <= json.loads((run / "evaluation" / "metrics.json").read_text()).keys()
    metrics = evaluate(EvaluateConfig(run=run, inference=inference, workers=0, device="cpu", output=tmp_path))
    assert set(PoseTask.metrics) <= metrics.keys()
    results = json.loads((tmp_path / "detections.json").read_text())
    assert {len(one["keypoints"]) for one in results} == {15}
    assert {one["category_id"] for one in results} == {4}


def test_prediction_draws_them(run: Path, animals: DataPaths, tmp_path: Path) -> None:
    config = PredictConfig(images=(animals.images / "1.png",), run=run, output=tmp_path, threshold=0.0, device="cpu")
    result = predict(config)
    (entry,) = result["images"]
    assert result["keypoints"] == list(NAMES)
    assert {one["category"] for one in entry["detections"]} == {"mouse"}
    assert {len(one["keypoints"]) for one in entry["detections"]} == {15}
    with Image.open(tmp_path / entry["picture"]) as picture:
        assert picture.width >= 640


def test_another_val_set_is_refused_by_its_names(run: Path, tmp_path: Path) -> None:
    data = draw_animals(tmp_path / "data")
    edit_json(data.annotations, lambda root: root["categories"][0].update(keypoints=[*NAMES[:4], "tail_tip"]))
    message = r"categories\[0\]\.keypoints: .*'tail_tip'\] are not the skeleton's .*'tail'\]"
    paths = {"images": data.images, "annotations": data.annotations}
    with pytest.raises(DatasetError, match=message):
        evaluate(EvaluateConfig(run=run, workers=0, device="cpu", output=tmp_path / "out", **paths))
    training = draw_animals(tmp_path / "training")
    val = {"val_images": data.images, "val_annotations": data.annotations}
    with pytest.raises(DatasetError, match=message):
        fit(tiny_fit(training, tmp_path / "run", task="pose", keypoint_sigmas=SIGMAS, **val))
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_its_own_skeleton_or_not_at_all(tmp_path: Path, warned: list[str]) -> None:
    data = draw_animals(tmp_path / "data")
    run = fit(tiny_fit(data, tmp_path / "run", task="pose", stop_after=1))
    assert last(run).skeleton == dataclasses.replace(SKELETON, sigmas=(0.072,) * 5)
    assert len(warned) == 1
    model = last(run).config.model
    with pytest.raises(ConfigError, match=r"--keypoint-sigmas: the run has 0\.072 0\.072 .* start a new run"):
        resume(run, model=dataclasses.replace(model, keypoint_sigmas=(0.05,)), stop_after=1)
    edit_json(data.annotations, lambda root: root["categories"][0].update(skeleton=[]))
    resume(run, stop_after=1)  # links are only drawn
    assert last(run).skeleton == dataclasses.replace(SKELETON, sigmas=(0.072,) * 5)
    assert len(warned) == 1
    edit_json(data.annotations, lambda root: root["categories"][0].update(keypoints=list("abcde")))
    with pytest.raises(DatasetError, match=r"\['a', 'b', 'c', 'd', 'e'\] are not the skeleton's \['nose'"):
        resume(run, stop_after=1)


def test_a_damaged_skeleton_in_a_checkpoint_is_named(run: Path, tmp_path: Path) -> None:
    content = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    for change, message in (
        ({"sigmas": [0.1]}, "5 keypoints need as many sigmas, not 1"),
        ({"names": [1, 2, 3, 4, 5]}, r"skeleton.*expected str, got 1"),
        ({"flip_pairs": [[0, 9]]}, "outside the 5 keypoints"),
    ):
        torch.save(content | {"skeleton": content["skeleton"] | change}, tmp_path / "broken.pt")
        with pytest.raises(CheckpointError, match=message) as caught:
            evaluate(EvaluateConfig(checkpoint=tmp_path / "broken.pt"))
        assert "broken.pt: skeleton" in str(caught.value)


def test_left_and_right_change_places_in_mirrored_samples(animals: DataPaths) -> None:
    """The left ear is on the left of who looks from back to nose. A mirrored picture has the right ear's disc there."""
    annotations = read(animals.annotations)
    seen = {"whole": 0, "mirrored": 0}
    for flip in (0.0, 1.0):
        augment = AugmentConfig(flip=flip, colour=0, lighting=0, crop_scales=(1.0,))
        data = TrainingSet(annotations, animals.images, 96, augment=augment, skeleton=annotations.skeleton)
        colours = np.array(COLOURS)[[0, 2, 1, 3, 4] if flip else [0, 1, 2, 3, 4]]
        for index in range(len(data)):
            sample = data[0, index]
            assert isinstance(sample, Sample)
            for points in sample.keypoints:
                for (x, y, v), colour in zip(points, colours, strict=True):
                    if v > 0 and 2 <= x < 94 and 2 <= y < 94:
                        assert np.abs(sample.image[int(y), int(x)].astype(int) - colour).max() < 90
                nose, left, right, back, _ = points
                for ear, side in ((left, 1), (right, -1)):
                    if nose[2] and back[2] and ear[2]:
                        forward, aside = nose - back, ear - back
                        # y goes down: what lies to the left of "forward" has a negative cross product.
                        assert side * (forward[0] * aside[1] - forward[1] * aside[0]) < 0
                        seen["mirrored" if flip else "whole"] += 1
    assert min(seen.values()) >= 4


def oks(points: np.ndarray, truth: np.ndarray, area: float, sigmas: tuple[float, ...]) -> float:
    """Return COCO's OKS, computed a keypoint at a time."""
    terms = []
    for (x, y), (tx, ty, v), sigma in zip(points.tolist(), truth.tolist(), sigmas, strict=True):
        if v > 0:
            terms.append(math.exp(-((x - tx) ** 2 + (y - ty) ** 2) / (2 * area * (2 * sigma) ** 2)))
    return sum(terms) / len(terms)


def entries(annotations: CocoAnnotations, move: np.ndarray | float = 0.0) -> list[dict[str, Any]]:
    """Return the truth as results, its keypoints moved by (A, J, 2) pixels."""
    points = annotations.keypoints.copy()
    points[..., :2] += move
    points[..., 2] = 1
    image = np.repeat(annotations.image_ids, np.diff(annotations.starts))
    boxes = np.concatenate([annotations.boxes[:, :2], annotations.boxes[:, 2:] - annotations.boxes[:, :2]], 1)
    return [
        {"image_id": int(image[i]), "category_id": 4, "bbox": boxes[i].tolist(), "score": 0.9, "component": 0}
        | {"keypoints": points[i].ravel().tolist(), "sigma": [1.0, 1.0]}
        for i in range(len(points))
    ]


def test_perfect_results_score_exactly_one(animals: DataPaths) -> None:
    annotations = read(animals.annotations)
    task = PoseTask(annotations.categories, SKELETON)
    metrics = task.score(annotations, entries(annotations)).metrics
    assert metrics["AP"] == metrics["AP50"] == metrics["AR"] == 1


@pytest.mark.parametrize("sigmas", [SIGMAS, (0.072,) * 5])
def test_displaced_keypoints_score_by_oks(tmp_path: Path, sigmas: tuple[float, ...]) -> None:
    """The AP of one animal is the share of COCO's ten thresholds that its OKS reaches."""
    data = draw_animals(tmp_path / "data", count=1)
    edit_json(data.annotations, lambda root: root["annotations"].pop(0))
    annotations = read(data.annotations, sigmas)
    assert set(annotations.keypoints[0, :, 2]) == {0, 1, 2}
    task = PoseTask(annotations.categories, annotations.skeleton)
    thresholds = np.linspace(0.5, 0.95, 10)
    rng = np.random.default_rng(0)
    seen = set()
    for spread in np.linspace(0.2, 6, 40):
        move = rng.normal(0, spread, (1, 5, 2))
        moved = annotations.keypoints[0, :, :2] + move[0]
        similarity = oks(moved, annotations.keypoints[0], float(annotations.areas[0]), sigmas)
        expected = float((thresholds <= similarity).mean())
        assert task.score(annotations, entries(annotations, move)).metrics["AP"] == pytest.approx(expected)
        seen.add(round(expected, 1))
    # On either side of a threshold, by keypoints of which each is as far off as its own constant allows.
    for share, expected in ((0.999, 0.6), (1.001, 0.5)):
        far = share * 2 * np.array(sigmas) * math.sqrt(-2 * annotations.areas[0] * math.log(0.75))
        move = np.stack([0.6 * far, 0.8 * far], 1)[None]
        assert task.score(annotations, entries(annotations, move)).metrics["AP"] == pytest.approx(expected)
    assert len(seen) > 5


def test_perfect_maps_score_exactly_one(animals: DataPaths) -> None:
    """The way is annotations -> targets -> a perfect network's maps -> poses -> OKS."""
    annotations = read(animals.annotations)
    dataset = EvaluationSet(annotations, animals.images, Views(128, 32), skeleton=SKELETON)
    task = PoseTask(annotations.categories, SKELETON)
    model = build_model("hourglass_small", task="pose", components=3, skeleton=SKELETON)
    results = []
    for (batch,) in evaluation_loader(dataset, [[i] for i in range(len(dataset))], workers=0, pin=False):
        maps = perfect_pose_maps(task.targets(batch, (32, 32), 4), components=3)
        found = placed(model.decode(maps, k=20, refine=False), batch["transform"])
        one = found._make(t[0] for t in found)
        results += [
            {"image_id": int(batch["image_id"]), **entry}
            for entry in task.results(one, (96, 80))
            if entry["score"] > 0.5
        ]
    assert len(results) == 16
    metrics = task.score(annotations, results).metrics
    assert metrics["AP"] == metrics["AR"] == 1


def test_one_keypoint_is_trained_and_scored(tmp_path: Path, warned: list[str]) -> None:
    data = draw_animals(tmp_path / "data", hidden=False)

    def alone(root: dict[str, Any]) -> None:
        root["categories"][0].update(keypoints=["nose"], skeleton=[])
        for one in root["annotations"]:
            one.update(keypoints=one["keypoints"][:3], num_keypoints=1, area=2000)

    edit_json(data.annotations, alone)
    annotations = read(data.annotations, (0.05,))
    skeleton = annotations.skeleton
    assert skeleton is not None
    task = PoseTask(annotations.categories, skeleton)
    assert task.score(annotations, entries(annotations)).metrics["AP"] == 1
    # A result far from the truth is counted wrong among its size too, though one keypoint encloses no area.
    wrong = [one | {"score": 0.95} for one in entries(annotations, 40.0)]
    assert task.score(annotations, [*entries(annotations), *wrong]).metrics["APmedium"] < 0.9
    val = {"val_images": data.images, "val_annotations": data.annotations}
    run = fit(tiny_fit(data, tmp_path / "run", task="pose", epochs=1, keypoint_sigmas=(0.05,), **val))
    assert last(run).skeleton == Skeleton(("nose",), (0.05,))
    assert not warned


def renamed(folder: Path, *names: str) -> DataPaths:
    data = draw_animals(folder)
    edit_json(data.annotations, lambda root: root["categories"][0].update(keypoints=list(names)))
    return data


def test_a_side_without_its_counterpart_cannot_be_mirrored(tmp_path: Path) -> None:
    data = renamed(tmp_path / "data", "nose", "left_ear", "rigth_ear", "back", "tail")
    message = r"--flip 0\.5: .*no counterpart among the skeleton's names: left_ear; train with --flip 0"
    with pytest.raises(ConfigError, match=message):
        fit(tiny_fit(data, tmp_path / "run", task="pose"))
    run = fit(tiny_fit(data, tmp_path / "run", task="pose", flip=0.0, epochs=1))
    config = EvaluateConfig(run=run, images=data.images, annotations=data.annotations, workers=0, device="cpu")
    assert "AP" in evaluate(config)
    with pytest.raises(ConfigError, match=r"--flip, --flip-stronger: .*left_ear; leave them out"):
        evaluate(dataclasses.replace(config, inference=InferenceConfig(flip=True)))


def test_names_without_sides_stay_what_they_are_with_a_warning(tmp_path: Path, warned: list[str]) -> None:
    data = renamed(tmp_path / "data", "mouth", "gill", "fin", "back", "tail")
    run = fit(tiny_fit(data, tmp_path / "run", task="pose", epochs=1, keypoint_sigmas=(0.05,)))
    assert last(run).skeleton == Skeleton(("mouth", "gill", "fin", "back", "tail"), (0.05,) * 5, (), LINKS)
    (message,) = warned
    assert "no keypoint's name says left or right (mouth, gill, fin, back, tail)" in message
    fit(tiny_fit(data, tmp_path / "still", task="pose", epochs=1, keypoint_sigmas=(0.05,), flip=0.0))
    assert len(warned) == 1


def test_check_data_says_the_skeleton(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = draw_animals(tmp_path / "data")
    config = CheckDataConfig(
        data.images, data.annotations, task="pose", output=tmp_path / "out", keypoint_sigmas=SIGMAS, input_size=96
    )
    report = check_data(config)
    assert report["skeleton"] == {
        "sigmas": dict(zip(NAMES, SIGMAS, strict=True)),
        "flip_pairs": [["left_ear", "right_ear"]],
        "unpaired": [],
        "links": [["nose", "left_ear"], ["nose", "right_ear"], ["nose", "back"], ["back", "tail"]],
    }
    assert json.loads((tmp_path / "out" / "check.json").read_text()) == report
    text = capsys.readouterr().out
    assert "constants of OKS: nose 0.03, left_ear 0.05, right_ear 0.05, back 0.1, tail 0.08" in text
    assert "change places in mirrored images: left_ear and right_ear\n4 links to draw" in text
    assert (tmp_path / "out" / "samples.png").is_file()
    edit_json(data.annotations, lambda root: root["categories"][0]["keypoints"].__setitem__(2, "ear"))
    check_data(config)
    text = capsys.readouterr().out
    assert "change places in mirrored images: none" in text
    assert "without a counterpart, so that training needs --flip 0: left_ear" in text


def test_constants_are_options_of_the_command_line(
    animals: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["--train-images", str(animals.images), "--train-annotations", str(animals.annotations)]
    start = ["fit", "--run", str(tmp_path / "run"), *paths]
    config = parse([*start, "--task", "pose", "--keypoint-sigmas", "0.1", "0.2"])
    assert isinstance(config, FitConfig)
    assert config.model.keypoint_sigmas == (0.1, 0.2)
    for options, message in (
        (["--task", "pose", "--keypoint-sigmas", "0.1", "0.2"], "2 numbers are given, and there are 5 keypoints"),
        (["--task", "pose", "--keypoint-sigmas", "0.1", "0"], "--keypoint-sigmas: must be one or more numbers above 0"),
        (["--task", "pose", "--keypoint-sigmas", "26"], "and below 1, as COCO's 0.025 to 0.107, not (26.0,)"),
        (["--keypoint-sigmas", "0.1"], "--keypoint-sigmas: --task detection has no keypoints"),
    ):
        assert main([*start, *options]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
