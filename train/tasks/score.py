"""COCO's numbers for results, by pycocotools: boxes by their overlap, poses by their keypoints' similarity (OKS)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from models.skeleton import Skeleton
from train.data.coco import CocoAnnotations

if TYPE_CHECKING:
    from pycocotools.coco import COCO


class Score(NamedTuple):
    """COCO's numbers by name (-1 where there is nothing to measure), and its printed table."""

    metrics: dict[str, float]
    table: str


def score_results(
    annotations: CocoAnnotations,
    results: Sequence[dict[str, Any]],
    areas: Sequence[float],
    *,
    kind: str,
    metrics: Sequence[str],
    skeleton: Skeleton | None = None,
) -> Score:
    """Return COCO's numbers for results. Works without any result and without any annotation.

    results: COCO's entries (image_id, category_id, score, and what `kind` compares) of images in `annotations`. areas:
    one for each result in square pixels, by which COCO sorts it into small, medium and large. kind: "bbox" for the
    overlap of boxes, "keypoints" for their similarity (OKS). metrics: the names of the numbers, in COCO's order.
    skeleton: that the annotations were read with; its sigmas are those of OKS.
    """
    from pycocotools.cocoeval import COCOeval  # which a machine that only times a task's network need not have

    found = [{**entry, "area": area, "iscrowd": 0} for entry, area in zip(results, areas, strict=True)]
    categories = [{"id": category.id, "name": category.name} for category in annotations.categories]
    images = [{"id": int(identity)} for identity in annotations.image_ids]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(_index(images, categories, _truth(annotations)), _index(images, categories, found), kind)
        if skeleton is not None:
            evaluator.params.kpt_oks_sigmas = np.array(skeleton.sigmas)
        evaluator.evaluate()
        evaluator.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as table:
        evaluator.summarize()
    return Score(dict(zip(metrics, map(float, evaluator.stats), strict=True)), table.getvalue())


def _truth(annotations: CocoAnnotations) -> list[dict[str, Any]]:
    """Return the annotations as COCO's entries."""
    entries = []
    for row in range(len(annotations)):
        for i in range(int(annotations.starts[row]), int(annotations.starts[row + 1])):
            x1, y1, x2, y2 = annotations.boxes[i].tolist()
            keypoints = annotations.keypoints[i]
            entries.append(
                {
                    "image_id": int(annotations.image_ids[row]),
                    "category_id": annotations.categories[int(annotations.labels[i])].id,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(annotations.areas[i]),
                    "iscrowd": int(annotations.crowd[i]),
                    "keypoints": keypoints.ravel().tolist(),
                    "num_keypoints": int((keypoints[:, 2] > 0).sum()),
                }
            )
    return entries


def _index(images: list[dict[str, Any]], categories: list[dict[str, Any]], entries: Sequence[dict[str, Any]]) -> COCO:
    """Return a COCO object of entries in memory: its own reader of results fails on an empty list.

    Ids count from 1, since COCOeval takes a match with id 0 for no match.
    """
    from pycocotools.coco import COCO

    coco = COCO()
    annotations = [{**entry, "id": number} for number, entry in enumerate(entries, start=1)]
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco
