"""Detections of a data set, in the image's own pixels, and COCO's score for them."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from models import Detections, Detector
from train.checkpoint import load_checkpoint
from train.coco import Category, CocoAnnotations
from train.colour import normalise
from train.config import EvaluateConfig, check_config
from train.data import BadSamples, DetectionDataset, batch_tensor, make_loader, open_dataset
from train.detector import check_component, find_checkpoint, pick_device, restore_detector
from train.errors import ConfigError, DatasetError
from train.files import write_json
from train.transforms import clip_boxes, move_boxes

logger = logging.getLogger("train")

METRICS = (
    "AP",
    "AP50",
    "AP75",
    "APsmall",
    "APmedium",
    "APlarge",
    "AR1",
    "AR10",
    "AR100",
    "ARsmall",
    "ARmedium",
    "ARlarge",
)


class Score(NamedTuple):
    """COCO's twelve numbers, by the names of METRICS (-1 where there is nothing to measure), and its printed table."""

    metrics: dict[str, float]
    table: str


class DetectionRun(NamedTuple):
    """What a detector found in a data set."""

    detections: list[dict[str, Any]]
    """In COCO's results format: image_id, category_id, bbox (x, y, width, height), score; and component, sigma."""
    skipped: list[str]
    """Image files that could not be read; they count as images without detections."""


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Scores a checkpoint on its run's val set, or on the configured one; writes detections.json and metrics.json.

    Returns COCO's twelve numbers by the names of METRICS. Raises ConfigError, DatasetError, CheckpointError.
    """
    check_config(config)
    checkpoint = load_checkpoint(find_checkpoint(config.run, config.checkpoint))
    images, annotations = config.images, config.annotations
    if (images is None) != (annotations is None):
        raise ConfigError("--images and --annotations: both are needed, or neither")
    if images is None or annotations is None:
        images, annotations = checkpoint.config.data.val_images, checkpoint.config.data.val_annotations
        limit = config.limit if config.limit is not None else checkpoint.config.data.val_limit
    else:
        limit = config.limit
    if images is None or annotations is None:
        raise ConfigError("--images and --annotations: are needed, as the run was trained without a val set")
    dataset = open_dataset(annotations, images, checkpoint.config.data.input_size, limit=limit)
    check_categories(dataset.annotations, checkpoint.categories)
    device = pick_device(config.device)
    found = detect(
        restore_detector(checkpoint).to(device),
        dataset,
        checkpoint.categories,
        device=device,
        batch=config.batch,
        workers=config.workers,
        k=config.detections,
        component=config.component,
    )
    output = config.output or (Path("evaluation") if config.run is None else config.run / "evaluation")
    score = score_detections(dataset.annotations, found.detections)
    write_evaluation(output, found, score)
    print(score.table, end="")
    return score.metrics


@torch.no_grad()
def detect(
    model: Detector,
    dataset: DetectionDataset,
    categories: Sequence[Category],
    *,
    device: torch.device,
    batch: int,
    workers: int,
    k: int = 100,
    component: int | None = None,
    autocast: contextlib.AbstractContextManager[Any] | None = None,
    process: int = 0,
    processes: int = 1,
) -> DetectionRun:
    """Runs the detector over the data set, or over this process's share of it; evaluation mode is set and undone here.

    model: on `device`. categories: by class index of the model. k: boxes per image. component: takes the sizes from
    this mixture component alone. Raises ConfigError where the model has no such component.
    """
    check_component(model, component)
    rows = range(process, len(dataset), processes)
    batches = [[(0, index) for index in rows[start : start + batch]] for start in range(0, len(rows), batch)]
    bad = BadSamples(len(dataset), dataset.annotations.path)
    detections: list[dict[str, Any]] = []
    was_training = model.training
    model.eval()
    try:
        with autocast or contextlib.nullcontext():
            for loaded in make_loader(dataset, batches, workers, pin=device.type == "cuda"):
                bad.add(loaded["bad"])
                if len(loaded["image"]) == 0:
                    continue
                images = normalise(batch_tensor(loaded, "image", device))
                found = model.predict(images, k=k, components=None if component is None else [component])
                detections += _batch_to_coco(found, loaded, categories)
    finally:
        model.train(was_training)
    return DetectionRun(detections, sorted(bad.seen))


def _batch_to_coco(
    found: Detections, batch: dict[str, Any], categories: Sequence[Category]
) -> Iterator[dict[str, Any]]:
    found = Detections(*(tensor.cpu() for tensor in found))
    for row, image_id in enumerate(batch["image_id"].tolist()):
        one = Detections(*(tensor[row] for tensor in found))
        width, height = batch["original_size"][row].tolist()
        for entry in to_coco(one, batch["transform"][row].numpy(), (width, height), categories):
            yield {"image_id": image_id, **entry}


def to_coco(
    found: Detections, transform: np.ndarray, image_size: tuple[int, int], categories: Sequence[Category]
) -> list[dict[str, Any]]:
    """The detections of one image in its own pixels: category_id, bbox (x, y, width, height), score, component, sigma.

    found: of one image, (k, ...) tensors on the CPU. transform: (2, 3), from input to image coordinates. Boxes are
    clipped to image_size (width, height); padding, and what the clipping leaves nothing of, is left out.
    """
    boxes = clip_boxes(move_boxes(found.box.double().numpy(), transform), *image_size)
    sides = boxes[:, 2:] - boxes[:, :2]
    # The transform may mirror or turn: a standard deviation has no sign.
    sigma = found.sigma.double().numpy() @ np.abs(transform[:, :2]).T
    labels = found.label.tolist()
    kept = [row for row, label in enumerate(labels) if label >= 0 and sides[row].min() > 0]
    return [
        {
            "category_id": categories[labels[row]].id,
            "bbox": [round(float(value), 3) for value in (*boxes[row, :2], *sides[row])],
            "score": float(found.score[row]),
            "component": int(found.component[row]),
            "sigma": [round(float(value), 3) for value in sigma[row]],
        }
        for row in kept
    ]


def score_detections(annotations: CocoAnnotations, detections: Sequence[dict[str, Any]]) -> Score:
    """pycocotools' box AP and AR. Works without any detection and without any annotation.

    detections: as in `DetectionRun`, of images in `annotations`.
    """
    categories = [{"id": category.id, "name": category.name} for category in annotations.categories]
    images = [{"id": int(identity)} for identity in annotations.image_ids]
    truth = []
    for row in range(len(annotations)):
        for i in range(int(annotations.starts[row]), int(annotations.starts[row + 1])):
            x1, y1, x2, y2 = annotations.boxes[i].tolist()
            truth.append(
                {
                    "image_id": int(annotations.image_ids[row]),
                    "category_id": annotations.categories[int(annotations.labels[i])].id,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(annotations.areas[i]),
                    "iscrowd": int(annotations.crowd[i]),
                }
            )
    found = [{**entry, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0} for entry in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(_index(images, categories, truth), _index(images, categories, found), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as table:
        evaluator.summarize()
    return Score(dict(zip(METRICS, map(float, evaluator.stats), strict=True)), table.getvalue())


def _index(images: list[dict[str, Any]], categories: list[dict[str, Any]], entries: list[dict[str, Any]]) -> COCO:
    """A COCO object without a file: its own reader of results fails on an empty list.

    Ids count from 1, since COCOeval takes a match with id 0 for no match.
    """
    coco = COCO()
    annotations = [{**entry, "id": number} for number, entry in enumerate(entries, start=1)]
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco


def write_evaluation(folder: Path, found: DetectionRun, score: Score) -> None:
    """detections.json (COCO's results format) and metrics.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "detections.json", found.detections, indent=None)
    write_json(folder / "metrics.json", {**score.metrics, "skipped_images": len(found.skipped)})
    if found.skipped:
        logger.warning("%d images could not be read and count as images without detections", len(found.skipped))


def check_categories(annotations: CocoAnnotations, known: Sequence[Category]) -> None:
    """Raises DatasetError where a data set has a category that the model was not trained on."""
    for category in annotations.categories:
        if category not in known:
            raise DatasetError(
                f"{annotations.path}: categories: id {category.id} ({category.name}) is unknown to the model"
            )
