"""Ground truth -> targets -> a perfect network's maps -> detections -> pycocotools: nothing is lost on the way."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from models import Mixture, decode_detections
from train.data import make_loader, open_dataset
from train.evaluation import score_detections, to_coco
from train.targets import DetectionTargets, detection_targets


def perfect_maps(targets: DetectionTargets, components: int) -> tuple[Tensor, Tensor, Mixture]:
    """Dense heatmap logits, offsets and a mixture whose component 1 has all the weight and the right size."""
    batch, _, height, width = targets.heatmap.shape
    heatmap = targets.heatmap.clamp(1e-6, 1 - 1e-6).logit()
    heatmap[targets.heatmap == 1] = 20.0
    offset = torch.zeros(batch, 2, height, width)
    logits = torch.zeros(batch, components, height, width)
    loc = torch.full((batch, components * 2, height, width), -7.0)
    logits[:, 1] = 5.0
    for image in range(batch):
        real = targets.index[image] >= 0
        cells = targets.index[image, real]
        offset[image].flatten(1)[:, cells] = targets.offset[image][:, real]
        loc[image, 2:4].flatten(1)[:, cells] = targets.size[image][:, real]
    return heatmap, offset, Mixture(logits, loc, torch.zeros_like(loc))


def test_a_perfect_network_scores_almost_one_on_real_photographs(coco_mini: Path) -> None:
    dataset = open_dataset(coco_mini / "annotations" / "instances_val2017.json", coco_mini / "val2017", input_size=512)
    categories = dataset.annotations.categories
    detections = []
    for batch in make_loader(dataset, [[(0, i)] for i in range(len(dataset))], workers=0, pin=False):
        assert not batch["bad"]
        targets = detection_targets(batch["boxes"], batch["labels"], len(categories), (128, 128))
        found = decode_detections(*perfect_maps(targets, components=3), k=100)
        size = tuple(batch["original_size"][0].tolist())
        entries = to_coco(type(found)(*(t[0] for t in found)), batch["transform"][0].numpy(), size, categories)
        assert {entry["component"] for entry in entries} <= {1}
        detections += [{"image_id": int(batch["image_id"]), **entry} for entry in entries]
    score = score_detections(dataset.annotations, detections)
    print(score.table)
    # What is missing: centres of two boxes of one class in the same cell, and neighbours closer than a peak's window.
    assert score.metrics["AP"] >= 0.98
