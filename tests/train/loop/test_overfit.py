"""A few real photographs can be learnt by heart: data, targets, losses, optimizer and decoding fit together."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch

from mdnkernels.train.__main__ import main

# As a command: python -m train fit --run overfit --train-images ...
OPTIONS = [
    *("--arch", "hourglass_small", "--components", "3", "--input-size", "256", "--no-augment"),
    *("--batch", "4", "--lr", "1e-3", "--workers", "1"),
]


def fit(run: Path, images: Path, annotations: Path, *more: str) -> tuple[dict[str, float], float]:
    """Train and evaluate on the same images; return the metrics, and the minutes it took."""
    torch.set_num_threads(os.cpu_count() or 1)
    began = time.monotonic()
    data = ["--train-images", images, "--train-annotations", annotations]
    data += ["--val-images", images, "--val-annotations", annotations]
    assert main(["fit", "--run", str(run), *map(str, data), *OPTIONS, *more]) == 0
    return json.loads((run / "evaluation" / "metrics.json").read_text()), (time.monotonic() - began) / 60


@pytest.mark.slow
def test_sixteen_photographs_are_learnt_within_a_quarter_of_an_hour(coco_mini: Path, tmp_path: Path) -> None:
    annotations = coco_mini / "annotations" / "instances_train2017.json"
    more = ["--train-limit", "16", "--val-limit", "16", "--epochs", "120", "--drop-epochs", "100"]
    metrics, minutes = fit(tmp_path / "run", coco_mini / "train2017", annotations, *more)
    assert minutes < 15
    assert metrics["AP50"] >= 0.6


@pytest.mark.slow
def test_poses_of_eight_photographs_are_learnt_within_twenty_minutes(coco_mini: Path, tmp_path: Path) -> None:
    root = json.loads((coco_mini / "annotations" / "person_keypoints_train2017.json").read_text())
    people = {entry["image_id"] for entry in root["annotations"] if entry["num_keypoints"] > 0}
    root["images"] = [image for image in root["images"] if image["id"] in people][:8]
    kept = {image["id"] for image in root["images"]}
    root["annotations"] = [entry for entry in root["annotations"] if entry["image_id"] in kept]
    annotations = tmp_path / "eight.json"
    annotations.write_text(json.dumps(root))
    more = ["--task", "pose", "--epochs", "250", "--drop-epochs", "200"]
    metrics, minutes = fit(tmp_path / "run", coco_mini / "train2017", annotations, *more)
    assert minutes < 20
    assert metrics["AP"] >= 0.6
