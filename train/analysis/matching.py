"""Which result belongs to which object of the truth, and how alike two poses are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# A result belongs to an object where their boxes overlap so much.
MIN_IOU = 0.5


def single_objects(truth: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the annotations of an annotation file's content, without those of crowds."""
    return [one for one in truth["annotations"] if not one.get("iscrowd")]


class Match(NamedTuple):
    """An object of the truth and its result."""

    truth: Mapping[str, Any]
    result: Mapping[str, Any] | None
    """None where none was found."""


def match_results(
    results: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]], min_score: float
) -> list[Match]:
    """Return each object with the strongest result of its image whose box overlaps its own by MIN_IOU or more.

    results: a task's, with their image_id; those with a lower score than `min_score` count as not found. truth: COCO's
    annotations. A result can belong to several objects.
    """
    strong = [result for result in results if result["score"] >= min_score]
    return _strongest(strong, truth, lambda box, thing: box_overlap(box, thing) >= MIN_IOU)


def match_centres(results: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]]) -> list[Match]:
    """Return each object with the strongest result of its image whose centre lies in the middle half of its box.

    Whatever the sizes and categories are, so that sizes can be compared of objects that are found. The middle half is
    half as wide and half as high. results, truth: as in `match_results`.
    """

    def in_middle(box: Sequence[float], thing: Sequence[float]) -> bool:
        x, y, width, height = thing
        across, down = box[0] + box[2] / 2 - x - width / 2, box[1] + box[3] / 2 - y - height / 2
        return abs(across) <= width / 4 and abs(down) <= height / 4

    return _strongest(results, truth, in_middle)


def _strongest(
    results: Sequence[Mapping[str, Any]],
    truth: Sequence[Mapping[str, Any]],
    belongs: Callable[[Sequence[float], Sequence[float]], bool],
) -> list[Match]:
    """Return each object with the strongest result of its image whose box belongs to the object's."""
    by_image: dict[int, list[Mapping[str, Any]]] = {}
    for result in results:
        by_image.setdefault(result["image_id"], []).append(result)
    matches = []
    for thing in truth:
        near = [result for result in by_image.get(thing["image_id"], ()) if belongs(result["bbox"], thing["bbox"])]
        matches.append(Match(thing, max(near, key=lambda result: result["score"], default=None)))
    return matches


def box_overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection over the union of two boxes x, y, width, height."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def object_keypoint_similarity(
    keypoints: NDArray[np.float64], truth: NDArray[np.float64], area: float, sigmas: Sequence[float]
) -> float:
    """Return COCO's OKS: the mean over the labelled keypoints of exp(-d^2 / (2 area (2 sigma)^2)).

    keypoints: (J, 2) x and y. truth: (J, 3), the last 0 where not labelled; at least one is. area: of the object in
    square pixels. sigmas: the J constants of the keypoints.
    """
    labelled = truth[:, 2] > 0
    distance = ((keypoints - truth[:, :2]) ** 2).sum(1)
    spread = 2 * area * (2 * np.asarray(sigmas)) ** 2
    return float(np.exp(-distance / spread)[labelled].mean())
