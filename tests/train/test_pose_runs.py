"""Pose from training to pictures: one run of a few seconds, and what can be asked of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import COCO_PERSON
from tests.train.drawn_data import DataPaths, edit_json, tiny_fit
from tests.train.figures import draw_figures
from train.config.commands import EvaluateConfig, PredictConfig
from train.config.options import InferenceConfig
from train.errors import ConfigError, DatasetError
from train.inference.evaluation import evaluate
from train.inference.prediction import predict
from train.loop.engine import fit
from train.run.checkpoint import load_checkpoint
from train.run.log import read_log
from train.tasks.pose import PoseTask


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> DataPaths:
    return draw_figures(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def run(figures: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pose") / "run"
    val = {"val_images": figures.images, "val_annotations": figures.annotations}
    return fit(tiny_fit(figures, path, task="pose", epochs=2, rotate=0.5, **val))


def test_every_loss_and_the_mixture_are_logged(run: Path) -> None:
    steps = [record for record in read_log(run / "log.jsonl") if record["kind"] == "step"]
    names = ("heatmap", "offset", "size", "mixture", "keypoint_heatmap", "keypoint_offset", "total")
    assert {f"loss/{name}" for name in names} <= steps[0].keys()
    assert {"mixture/alpha_entropy", "mixture/alpha_1", "mixture/sigma_1"} <= steps[0].keys()
    assert steps[0]["mixture/sigma_0"] >= 9


def test_results_are_cocos_keypoint_format_and_scored_by_oks(run: Path) -> None:
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert set(PoseTask.metrics) <= metrics.keys()
    results = json.loads((run / "evaluation" / "detections.json").read_text())
    assert {one["category_id"] for one in results} == {1}
    assert all(len(one["keypoints"]) == 51 and set(one["keypoints"][2::3]) == {1} for one in results)
    assert all(len(one["sigma"]) == 2 and min(one["sigma"]) > 0 for one in results)


@pytest.mark.parametrize(
    "inference",
    [
        InferenceConfig(flip=True, scales=(0.5, 1.0, 2.0)),
        InferenceConfig(resolution="original", refine=False),
        InferenceConfig(component=1, flip_stronger=True),
    ],
)
def test_it_is_evaluated_in_every_way(run: Path, tmp_path: Path, inference: InferenceConfig) -> None:
    metrics = evaluate(EvaluateConfig(run=run, inference=inference, workers=0, device="cpu", output=tmp_path))
    assert set(PoseTask.metrics) <= metrics.keys()
    results = json.loads((tmp_path / "detections.json").read_text())
    components = {one["component"] for one in results}
    assert components <= ({0, 1} if inference.component is None else {1})
    assert np.isfinite([one["keypoints"] for one in results]).all()


def test_prediction_writes_poses_and_their_picture(run: Path, figures: DataPaths, tmp_path: Path) -> None:
    path = figures.images / "001.jpg"
    config = PredictConfig(images=(path,), run=run, output=tmp_path, threshold=0.0, device="cpu")
    (entry,) = predict(config)["images"]
    assert len(entry["detections"][0]["keypoints"]) == 3 * len(COCO_PERSON.names)
    with Image.open(path) as image, Image.open(tmp_path / entry["picture"]) as picture:
        plain = np.asarray(image.convert("RGB").resize(picture.size), dtype=int)
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
