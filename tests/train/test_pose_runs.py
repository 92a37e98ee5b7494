"""Poses from training to pictures: runs of a few seconds, of people and of animals, and what can be asked of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mdnkernels.models import COCO_PERSON, Skeleton
from mdnkernels.train.__main__ import main, parse
from mdnkernels.train.config.commands import EvaluateConfig, FitConfig, PredictConfig
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.errors import CheckpointError, ConfigError, DatasetError
from mdnkernels.train.inference.evaluation import evaluate
from mdnkernels.train.inference.prediction import predict
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.loop.network import restore_network
from mdnkernels.train.run.checkpoint import load_checkpoint
from mdnkernels.train.run.log import read_log
from mdnkernels.train.tasks.pose import PoseTask
from tests.train.animals import LINKS, NAMES, SIGMAS, SKELETON, draw_animals, read_animals
from tests.train.drawn_data import DataPaths, edit_json, tiny_fit
from tests.train.figures import draw_figures
from tests.train.loop.test_engine import last, resume
from tests.train.tasks.test_pose import entries

# Keypoints and category id of each run's data.
KINDS = {"run": (len(COCO_PERSON.names), 1), "animal_run": (len(NAMES), 4)}


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> DataPaths:
    return draw_figures(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def run(figures: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pose") / "run"
    val = {"val_images": figures.images, "val_annotations": figures.annotations}
    return fit(tiny_fit(figures, path, task="pose", epochs=2, rotate=0.5, **val))


@pytest.fixture(scope="module")
def animal_run(animals: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train three steps, evaluate, and remove the training annotations."""
    path = tmp_path_factory.mktemp("runs") / "run"
    training = draw_animals(path.parent / "training")
    val = {"val_images": animals.images, "val_annotations": animals.annotations}
    fit(tiny_fit(training, path, task="pose", epochs=2, stop_after=3, keypoint_sigmas=SIGMAS, **val))
    resume(path)
    training.annotations.unlink()
    return path


def test_every_loss_and_the_mixture_are_logged(run: Path) -> None:
    steps = [record for record in read_log(run / "log.jsonl") if record["kind"] == "step"]
    names = ("heatmap", "offset", "size", "mixture", "keypoint_heatmap", "keypoint_offset", "total")
    assert {f"loss/{name}" for name in names} <= steps[0].keys()
    assert {"mixture/choice_entropy", "mixture/share_1", "mixture/chosen_1", "mixture/sigma_1"} <= steps[0].keys()
    assert steps[0]["mixture/sigma_0"] >= 9


def test_results_are_cocos_keypoint_format_and_scored_by_oks(run: Path) -> None:
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert set(PoseTask.metrics) <= metrics.keys()
    results = json.loads((run / "evaluation" / "detections.json").read_text())
    assert {one["category_id"] for one in results} == {1}
    assert all(len(one["keypoints"]) == 51 and set(one["keypoints"][2::3]) == {1} for one in results)
    assert all(len(one["sigma"]) == 2 and min(one["sigma"]) > 0 for one in results)


@pytest.mark.parametrize(
    ("name", "inference"),
    [
        ("run", InferenceConfig(flip=True, scales=(0.5, 1.0, 2.0))),
        ("run", InferenceConfig(resolution="original", refine=False)),
        ("run", InferenceConfig(component=1, flip_stronger=True)),
        ("animal_run", InferenceConfig(flip=True, scales=(0.5, 1.0))),
        ("animal_run", InferenceConfig(component=1, flip_stronger=True)),
    ],
)
def test_it_is_evaluated_in_every_way(
    name: str, inference: InferenceConfig, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A run of animals is evaluated without its training data, which is gone."""
    run, joints, category = request.getfixturevalue(name), *KINDS[name]
    assert set(PoseTask.metrics) <= json.loads((run / "evaluation" / "metrics.json").read_text()).keys()
    metrics = evaluate(EvaluateConfig(run=run, inference=inference, workers=0, device="cpu", output=tmp_path))
    assert set(PoseTask.metrics) <= metrics.keys()
    results = json.loads((tmp_path / "detections.json").read_text())
    assert {one["category_id"] for one in results} == {category}
    assert {len(one["keypoints"]) for one in results} == {3 * joints}
    components = {one["component"] for one in results}
    assert components <= ({0, 1} if inference.component is None else {1})
    assert np.isfinite([one["keypoints"] for one in results]).all()


@pytest.mark.parametrize(
    ("name", "data", "category"), [("run", "figures", "person"), ("animal_run", "animals", "mouse")]
)
def test_prediction_writes_poses_and_their_picture(
    name: str, data: str, category: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = sorted(request.getfixturevalue(data).images.iterdir())[0]
    run, joints = request.getfixturevalue(name), KINDS[name][0]
    config = PredictConfig(images=(path,), run=run, output=tmp_path, threshold=0.0, device="cpu")
    result = predict(config)
    (entry,) = result["images"]
    assert len(result["keypoints"]) == joints
    assert {one["category"] for one in entry["detections"]} == {category}
    assert {len(one["keypoints"]) for one in entry["detections"]} == {3 * joints}
    with Image.open(path) as image, Image.open(tmp_path / entry["picture"]) as picture:
        assert picture.width >= 640
        plain = np.asarray(image.convert("RGB").resize((picture.width, picture.height)), dtype=int)
        assert (np.abs(np.asarray(picture.convert("RGB"), dtype=int) - plain).max(2) > 100).mean() > 0.01


def test_a_checkpoint_that_names_no_skeleton_is_of_cocos_persons(run: Path, tmp_path: Path) -> None:
    content = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    assert content.pop("skeleton") is not None
    del content["config"]["model"]["keypoint_sigmas"]
    torch.save(content, tmp_path / "old.pt")
    assert load_checkpoint(tmp_path / "old.pt").skeleton == COCO_PERSON
    paths = {"checkpoint": tmp_path / "old.pt", "output": tmp_path / "out"}
    again = evaluate(EvaluateConfig(**paths, workers=0, device="cpu"))
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert {name: again[name] for name in PoseTask.metrics} == {name: metrics[name] for name in PoseTask.metrics}


def test_data_without_keypoints_and_sizes_by_class_are_refused(figures: DataPaths, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has one class: num_classes must be 1"):
        fit(tiny_fit(figures, tmp_path / "run", task="pose", class_specific=True))
    copy = draw_figures(tmp_path / "data")
    edit_json(copy.annotations, lambda root: root["annotations"][0]["keypoints"].pop())
    with pytest.raises(DatasetError, match=r"annotations\[0\]\.keypoints: is not a list of 51"):
        fit(tiny_fit(copy, tmp_path / "run", task="pose"))
    assert not (tmp_path / "run").exists()


def test_the_run_remembers_the_skeleton(animal_run: Path) -> None:
    assert last(animal_run).skeleton == SKELETON
    model, task = restore_network(last(animal_run))
    assert model.skeleton == task.skeleton == SKELETON
    assert model.heads[-1].heads["keypoint_heatmap"].output.out_channels == 5


def test_another_val_set_is_refused_by_its_names(animal_run: Path, tmp_path: Path) -> None:
    data = draw_animals(tmp_path / "data")
    edit_json(data.annotations, lambda root: root["categories"][0].update(keypoints=[*NAMES[:4], "tail_tip"]))
    message = r"categories\[0\]\.keypoints: .*'tail_tip'\] are not the skeleton's .*'tail'\]"
    paths = {"images": data.images, "annotations": data.annotations}
    with pytest.raises(DatasetError, match=message):
        evaluate(EvaluateConfig(run=animal_run, workers=0, device="cpu", output=tmp_path / "out", **paths))
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


def test_a_damaged_skeleton_in_a_checkpoint_is_named(animal_run: Path, tmp_path: Path) -> None:
    content = torch.load(animal_run / "checkpoints" / "last.pt", weights_only=True)
    for change, message in (
        ({"sigmas": [0.1]}, "5 keypoints need as many sigmas, not 1"),
        ({"names": [1, 2, 3, 4, 5]}, r"skeleton.*expected str, got 1"),
        ({"flip_pairs": [[0, 9]]}, "outside the 5 keypoints"),
    ):
        torch.save(content | {"skeleton": content["skeleton"] | change}, tmp_path / "broken.pt")
        with pytest.raises(CheckpointError, match=message) as caught:
            evaluate(EvaluateConfig(checkpoint=tmp_path / "broken.pt"))
        assert "broken.pt: skeleton" in str(caught.value)


def test_one_keypoint_is_trained_and_scored(tmp_path: Path, warned: list[str]) -> None:
    data = draw_animals(tmp_path / "data", hidden=False)

    def alone(root: dict[str, Any]) -> None:
        root["categories"][0].update(keypoints=["nose"], skeleton=[])
        for one in root["annotations"]:
            one.update(keypoints=one["keypoints"][:3], num_keypoints=1, area=2000)

    edit_json(data.annotations, alone)
    annotations = read_animals(data.annotations, (0.05,))
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
