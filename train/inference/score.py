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

BOX_METRICS = (
    *("AP", "AP50", "AP75", "APsmall", "APmedium", "APlarge"),
    *("AR1", "AR10", "AR100", "ARsmall", "ARmedium", "ARlarge"),
)
POSE_METRICS = (
    *("AP", "AP50", "AP75", "APmedium", "APlarge"),
    *("AR", "AR50", "AR75", "ARmedium", "ARlarge"),
)


class Score(NamedTuple):
    """COCO's numbers by name (-1 where there is nothing to measure), and its printed table."""

    metrics: dict[str, float]
    table: str


def score_boxes(annotations: CocoAnnotations, results: Sequence[dict[str, Any]]) -> Score:
    """Box AP and AR, by the names of BOX_METRICS. Works without any result and without any annotation.

    results: COCO's entries (image_id, category_id, bbox, score) of images in `annotations`.
    """
    found = [{**entry, "area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0} for entry in results]
    return _score(annotations, found, "bbox", BOX_METRICS, None)


def score_poses(annotations: CocoAnnotations, results: Sequence[dict[str, Any]], skeleton: Skeleton) -> Score:
    """OKS AP and AR, by the names of POSE_METRICS; the rest as in `score_boxes`, with keypoints in each result.

    skeleton: that the annotations were read with; its sigmas are those of OKS.
    """
    found = [{**entry, "area": _area(entry), "iscrowd": 0} for entry in results]
    return _score(annotations, found, "keypoints", POSE_METRICS, skeleton)


def _area(entry: dict[str, Any]) -> float:
    """The area of the box around all keypoints, by which COCO sorts a result into medium and large.

    One keypoint has none around it, and would take each wrong result out of both: it has the area of the result's box.
    """
    x, y = entry["keypoints"][0::3], entry["keypoints"][1::3]
    if len(x) == 1:
        return entry["bbox"][2] * entry["bbox"][3]
    return (max(x) - min(x)) * (max(y) - min(y))


def _score(
    annotations: CocoAnnotations,
    found: Sequence[dict[str, Any]],
    kind: str,
    names: Sequence[str],
    skeleton: Skeleton | None,
) -> Score:
    from pycocotools.cocoeval import COCOeval  # which a machine that only times a task's network need not have

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
    return Score(dict(zip(names, map(float, evaluator.stats), strict=True)), table.getvalue())


def _truth(annotations: CocoAnnotations) -> list[dict[str, Any]]:
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
    """A COCO object without a file: its own reader of results fails on an empty list.

    Ids count from 1, since COCOeval takes a match with id 0 for no match.
    """
    from pycocotools.coco import COCO

    coco = COCO()
    annotations = [{**entry, "id": number} for number, entry in enumerate(entries, start=1)]
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco
