"""Poses of an animal with five keypoints: scored by OKS, whose thresholds are computed a keypoint at a time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdnkernels.models import build_model, placed
from mdnkernels.train.data.coco import CocoAnnotations
from mdnkernels.train.data.sets import EvaluationSet, evaluation_loader
from mdnkernels.train.data.transforms import Views
from mdnkernels.train.tasks.pose import PoseTask
from tests.train.animals import SIGMAS, SKELETON, draw_animals, read_animals
from tests.train.drawn_data import DataPaths, edit_json
from tests.train.tasks.test_round_trip import perfect_pose_maps


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
    annotations = read_animals(animals.annotations)
    task = PoseTask(annotations.categories, SKELETON)
    metrics = task.score(annotations, entries(annotations)).metrics
    assert metrics["AP"] == metrics["AP50"] == metrics["AR"] == 1


@pytest.mark.parametrize("sigmas", [SIGMAS, (0.072,) * 5])
def test_displaced_keypoints_score_by_oks(tmp_path: Path, sigmas: tuple[float, ...]) -> None:
    """The AP of one animal is the share of COCO's ten thresholds that its OKS reaches."""
    data = draw_animals(tmp_path / "data", count=1)
    edit_json(data.annotations, lambda root: root["annotations"].pop(0))
    annotations = read_animals(data.annotations, sigmas)
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
    annotations = read_animals(animals.annotations)
    dataset = EvaluationSet(annotations, animals.images, Views(128, 32), skeleton=SKELETON)
    task = PoseTask(annotations.categories, SKELETON)
    model = build_model("hourglass_small", task="pose", components=3, skeleton=SKELETON)
    results = []
    for (batch,) in evaluation_loader(dataset, [[i] for i in range(len(dataset))], workers=0, pin=False):
        maps = perfect_pose_maps(task.targets(batch, (32, 32), 4), components=3, size=(32, 32))
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
