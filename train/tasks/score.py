"""COCO's numbers for results, by pycocotools: boxes by their overlap, poses by their keypoints' similarity (OKS)."""

from __future__ import annotations

import contextlib
import functools
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdnkernels.models.skeleton import Skeleton
from mdnkernels.train.data.coco import CocoAnnotations

if TYPE_CHECKING:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval


class Score(NamedTuple):
    """COCO's numbers by name (-1 where there is nothing to measure), its printed table, and each category's numbers.

    Of each category, in the order of the class indices: its "id", "name", how many "objects" count, and "AP", "AP50",
    "AP75" and "AR" for objects of all sizes, -1 without any. The AP of all is the mean of these over the categories
    that have objects.
    """

    metrics: dict[str, float]
    table: str
    categories: Sequence[dict[str, Any]] = ()


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
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = _evaluator(annotations, results, areas, kind, skeleton)
        evaluator.evaluate()
        evaluator.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as table:
        evaluator.summarize()
    numbers = dict(zip(metrics, map(float, evaluator.stats), strict=True))
    return Score(numbers, table.getvalue(), _score_categories(evaluator, annotations, kind))


def _score_categories(evaluator: COCOeval, annotations: CocoAnnotations, kind: str) -> list[dict[str, Any]]:
    """Return `Score.categories` of an accumulated evaluation: of areas the first, all, of detections the most."""
    counted = ~annotations.crowd
    if kind == "keypoints":
        counted = counted & (annotations.keypoints[..., 2] > 0).any(1)
    objects = np.bincount(annotations.labels[counted], minlength=len(annotations.categories))
    precision = evaluator.eval["precision"][:, :, :, 0, -1]  # (thresholds, recalls, categories)
    recall = evaluator.eval["recall"][:, :, 0, -1]
    thresholds = evaluator.params.iouThrs
    place_of = {int(identity): place for place, identity in enumerate(evaluator.params.catIds)}
    scores = []
    for index, category in enumerate(annotations.categories):
        place = place_of[category.id]
        own = {"AP": precision[:, :, place], "AR": recall[:, place]}
        for name, least in (("AP50", 0.5), ("AP75", 0.75)):
            own[name] = own["AP"][np.isclose(thresholds, least)]
        scores.append(
            {
                "id": category.id,
                "name": category.name,
                "objects": int(objects[index]),
                **{name: _mean_of_defined(own[name]) for name in ("AP", "AP50", "AP75", "AR")},
            }
        )
    return scores


def _mean_of_defined(values: NDArray[np.float64]) -> float:
    """Return the mean of what is above -1, which COCO writes where there is nothing to measure; -1 of nothing."""
    defined = values[values > -1]
    return float(defined.mean()) if len(defined) else -1.0


# Rows of a table of categories: half of the best, and half of the worst, where there are more.
CATEGORY_ROWS = 20


def category_table(categories: Sequence[Mapping[str, Any]]) -> str:
    """Return the lines of a table of `Score.categories`, the best AP first.

    Of more than CATEGORY_ROWS those in the middle are left out, and so are those without objects, which are counted.
    """
    ranked = sorted((one for one in categories if one["objects"]), key=lambda one: -one["AP"])
    width = max([len("category"), *(len(one["name"]) for one in ranked)])
    names = ("AP", "AP50", "AP75", "AR")
    rows = [
        f"{one['name']:<{width}} {one['objects']:>8} " + " ".join(f"{one[name]:6.3f}" for name in names)
        for one in ranked
    ]
    half = CATEGORY_ROWS // 2
    if len(rows) > CATEGORY_ROWS:
        rows[half:-half] = [f"... {len(rows) - 2 * half} categories between; metrics.json has them all"]
    without = len(categories) - len(ranked)
    if without:
        rows.append(f"{without} categories have no objects here")
    return "\n".join([f"{'category':<{width}} {'objects':>8} " + " ".join(f"{name:>6}" for name in names), *rows])


def average_precision(
    annotations: CocoAnnotations, results: Sequence[dict[str, Any]], *, kind: str, skeleton: Skeleton | None = None
) -> float:
    """Return COCO's AP of objects of all sizes, the "AP" of `score_results`, in less time; -1 for no object.

    The arguments are those of `score_results`.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = _evaluator(annotations, results, [1.0] * len(results), kind, skeleton)
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, math.inf]], ["all"]
        evaluator.params.maxDets = evaluator.params.maxDets[-1:]
        if kind == "keypoints":
            evaluator.computeOks = functools.partial(keypoint_similarities, evaluator)
        evaluator.evaluate()
        evaluator.accumulate()
    return _mean_of_defined(evaluator.eval["precision"])


def keypoint_similarities(evaluator: COCOeval, image: int, category: int) -> NDArray[np.float64] | list[Any]:
    """Return what COCO's `computeOks` does, (results, objects) with the best results first, in one go.

    OKS is the mean over an object's labelled keypoints of exp(-d^2 / (2 area (2 sigma)^2)), d the distance. Of an
    object without any it is the mean over all keypoints, d the distance from the box of thrice the object's sides.
    """
    truth, found = evaluator._gts[image, category], evaluator._dts[image, category]
    if not truth or not found:
        return []
    order = np.argsort([-one["score"] for one in found], kind="stable")[: evaluator.params.maxDets[-1]]
    sigmas = evaluator.params.kpt_oks_sigmas
    points = np.array([found[i]["keypoints"] for i in order], dtype=np.float64).reshape(-1, 1, len(sigmas), 3)[..., :2]
    places = np.array([one["keypoints"] for one in truth], dtype=np.float64).reshape(-1, len(sigmas), 3)
    boxes = np.array([one["bbox"] for one in truth], dtype=np.float64)[:, None]
    areas = np.array([one["area"] for one in truth])[:, None] + np.spacing(1)
    labelled: NDArray[np.bool_] = places[..., 2] > 0
    known = (np.count_nonzero(labelled, axis=1) > 0)[:, None]
    below = np.maximum(boxes[..., :2] - boxes[..., 2:] - points, 0)
    above = np.maximum(points - boxes[..., :2] - 2 * boxes[..., 2:], 0)
    difference = np.where(known[:, :, None], points - places[..., :2], below + above)
    similarity = np.exp(-(difference**2).sum(3) / (2 * areas * (2 * sigmas) ** 2))
    counted = labelled | ~known
    mean: NDArray[np.float64] = (similarity * counted).sum(2) / counted.sum(1)
    return mean


def _evaluator(
    annotations: CocoAnnotations,
    results: Sequence[dict[str, Any]],
    areas: Sequence[float],
    kind: str,
    skeleton: Skeleton | None,
) -> COCOeval:
    """Return COCO's evaluation, which has not begun."""
    from pycocotools.cocoeval import COCOeval  # which a machine that only times a task's network need not have

    found = [{**entry, "area": area, "iscrowd": 0} for entry, area in zip(results, areas, strict=True)]
    categories = [{"id": category.id, "name": category.name} for category in annotations.categories]
    images = [{"id": int(identity)} for identity in annotations.image_ids]
    evaluator = COCOeval(_index(images, categories, _truth(annotations)), _index(images, categories, found), kind)
    if skeleton is not None:
        evaluator.params.kpt_oks_sigmas = np.array(skeleton.sigmas)
    return evaluator


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
