"""Ground truth -> targets -> a perfect network's maps -> detections -> pycocotools: nothing is lost on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mdnkernels.models import COCO_PERSON, build_model, decode_detections, placed, size_regression
from mdnkernels.train.data.sets import EvaluationSet, evaluation_loader, open_annotations
from mdnkernels.train.data.transforms import Views
from mdnkernels.train.tasks.detection import DetectionTargets, DetectionTask
from mdnkernels.train.tasks.pose import PoseTargets, PoseTask


def perfect_maps(targets: DetectionTargets, classes: int, components: int) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Return dense heatmap logits, offsets and a mixture whose component 1 has all the weight and the right size."""
    drawn = targets.heatmaps["heatmap"].draw(classes, (128, 128))
    batch, _, height, width = drawn.shape
    heatmap = drawn.clamp(1e-6, 1 - 1e-6).logit()
    heatmap[drawn == 1] = 20.0
    offset = torch.zeros(batch, 2, height, width)
    logits = torch.zeros(batch, components, height, width)
    loc = torch.full((batch, components * 2, height, width), -7.0)
    logits[:, 1] = 5.0
    for image in range(batch):
        real = targets.index[image] >= 0
        cells = targets.index[image, real]
        offset[image].flatten(1)[:, cells] = targets.offset[image][:, real]
        loc[image, 2:4].flatten(1)[:, cells] = targets.size[image][:, real]
    return heatmap, offset, (logits, loc, torch.zeros_like(loc))


def test_a_perfect_network_scores_almost_one_on_real_photographs(coco_mini: Path) -> None:
    annotations = open_annotations(coco_mini / "annotations" / "instances_val2017.json")
    dataset = EvaluationSet(annotations, coco_mini / "val2017", Views(512, 128))
    task = DetectionTask(annotations.categories)
    results = []
    for (batch,) in evaluation_loader(dataset, [[i] for i in range(len(dataset))], workers=0, pin=False):
        assert not batch["bad"]
        targets = task.targets(batch, (128, 128), 4)
        maps = perfect_maps(targets, len(annotations.categories), components=3)
        found = placed(decode_detections(*maps, k=100, regression=size_regression(3)), batch["transform"])
        entries = task.results(found._make(t[0] for t in found), batch["original_size"][0].tolist())
        assert {entry["component"] for entry in entries} <= {1}
        results += [{"image_id": int(batch["image_id"]), **entry} for entry in entries]
    score = task.score(annotations, results)
    print(score.table)
    # What is missing: centres of two boxes of one class in the same cell, and neighbours closer than a peak's window.
    assert score.metrics["AP"] >= 0.98


def perfect_pose_maps(targets: PoseTargets, components: int, size: tuple[int, int] = (128, 128)) -> dict[str, Tensor]:
    """Return all dense maps: component 1 has all the weight and the right pose, the others are far away."""
    joints = targets.observed.shape[1]
    people, keypoints = (
        targets.heatmaps[name].draw(maps, size) for name, maps in (("heatmap", 1), ("keypoint_heatmap", joints))
    )
    batch, _, height, width = people.shape
    maps = {
        # Nothing trains the cells around people without keypoints: here they are background.
        "heatmap": torch.where(people == 1, 20.0, -20.0),
        "keypoint_heatmap": keypoints.clamp(1e-6, 1 - 1e-3).logit(),
        "offset": torch.zeros(batch, 2, height, width),
        "size": torch.zeros(batch, 2, height, width),
        "keypoint_offset": torch.zeros(batch, 2, height, width),
        "logits": torch.zeros(batch, components, height, width),
        "loc": torch.full((batch, components * 2 * joints, height, width), -70.0),
        "scale": torch.zeros(batch, 2 * components, height, width),
    }
    maps["logits"][:, 1] = 5.0
    for image in range(batch):
        for name, index in (("offset", targets.index), ("size", targets.index)):
            real = index[image] >= 0
            maps[name][image].flatten(1)[:, index[image, real]] = getattr(targets, name)[image][:, real]
        real = targets.index[image] >= 0
        own = maps["loc"][image].unflatten(0, (components, -1))[1].flatten(1)
        own[:, targets.index[image, real]] = targets.keypoints[image][:, real]
        real = targets.keypoint_index[image] >= 0
        cells = targets.keypoint_index[image, real]
        maps["keypoint_offset"][image].flatten(1)[:, cells] = targets.keypoint_offset[image][:, real]
    return maps


# Refinement has one offset for all keypoints of a cell, and takes near ones of other people for a person's own.
@pytest.mark.parametrize(("refine", "least"), [(False, 0.98), (True, 0.97)])
def test_perfect_poses_score_almost_one_on_real_photographs(coco_mini: Path, refine: bool, least: float) -> None:
    path = coco_mini / "annotations" / "person_keypoints_val2017.json"
    annotations = open_annotations(path, COCO_PERSON)
    assert (annotations.keypoints[..., 2] > 0).any(1).sum() > 50
    dataset = EvaluationSet(annotations, coco_mini / "val2017", Views(512, 128), skeleton=COCO_PERSON)
    task = PoseTask(annotations.categories)
    model = build_model("hourglass_small", task="pose", components=3)
    results = []
    for (batch,) in evaluation_loader(dataset, [[i] for i in range(len(dataset))], workers=0, pin=False):
        maps = perfect_pose_maps(task.targets(batch, (128, 128), 4), components=3)
        found = placed(model.decode(maps, k=20, refine=refine), batch["transform"])
        entries = task.results(found._make(t[0] for t in found), batch["original_size"][0].tolist())
        assert {entry["component"] for entry in entries} <= {1}
        results += [{"image_id": int(batch["image_id"]), **entry} for entry in entries]
    score = task.score(annotations, results)
    print(score.table)
    assert score.metrics["AP"] >= least
