"""What a mixture's components stand for in poses: the side a figure is seen from, where that can be told or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from models.skeleton import Skeleton
from train.drawing.plots import cramers_v

# A result belongs to a figure where their boxes overlap so much.
MIN_IOU = 0.5


class Matches(NamedTuple):
    """Figures of the truth that a result was found for, n of them."""

    component: np.ndarray
    """(n,) int64, -1 for the single-mode base."""
    back: np.ndarray
    """(n,) bool: seen from the back."""
    hidden: np.ndarray
    """(n,) bool: nothing in the picture tells front from back."""
    oks: np.ndarray
    """(n,) float64: similarity to the truth, in [0, 1]."""
    swapped: np.ndarray
    """(n,) float64: similarity to the truth with left and right exchanged."""
    sigma: np.ndarray
    """(n,) float64: geometric mean of x's and y's standard deviation over the square root of the figure's area."""
    missed: int
    """Figures with keypoints that no result was found for."""


def object_keypoint_similarity(keypoints: np.ndarray, truth: np.ndarray, area: float, sigmas: Sequence[float]) -> float:
    """COCO's OKS: the mean over the labelled keypoints of exp(-d^2 / (2 area (2 sigma)^2)).

    keypoints: (J, 2) x and y. truth: (J, 3), the last 0 where not labelled; at least one is. area: of the object in
    square pixels. sigmas: the J constants of the keypoints.
    """
    labelled = truth[:, 2] > 0
    distance = ((keypoints - truth[:, :2]) ** 2).sum(1)
    spread = 2 * area * (2 * np.asarray(sigmas)) ** 2
    return float(np.exp(-distance / spread)[labelled].mean())


def match_figures(
    results: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]], skeleton: Skeleton, min_score: float
) -> Matches:
    """Each labelled figure with the strongest result whose box overlaps its own by MIN_IOU or more.

    results: a pose task's. truth: annotations of `write_synthetic_pose`.
    """
    by_image: dict[int, list[Mapping[str, Any]]] = {}
    for one in results:
        if one["score"] >= min_score:
            by_image.setdefault(one["image_id"], []).append(one)
    rows: list[tuple[Any, ...]] = []
    missed = 0
    for figure in truth:
        if figure["num_keypoints"] == 0:
            continue
        near = [one for one in by_image.get(figure["image_id"], ()) if _iou(one["bbox"], figure["bbox"]) >= MIN_IOU]
        if not near:
            missed += 1
            continue
        best = max(near, key=lambda one: one["score"])
        points = np.reshape(best["keypoints"], (-1, 3))[:, :2]
        labels = np.reshape(figure["keypoints"], (-1, 3)).astype(np.float64)
        oks, swapped = (
            object_keypoint_similarity(points, one, figure["area"], skeleton.sigmas)
            for one in (labels, labels[list(skeleton.mirrored)])
        )
        sigma = float(np.sqrt(np.prod(best["sigma"]) / figure["area"]))
        rows.append((best["component"], figure["view"] == "back", figure["cue_hidden"], oks, swapped, sigma))
    columns = list(zip(*rows, strict=True)) or [()] * 6
    kinds = (np.int64, np.bool_, np.bool_, np.float64, np.float64, np.float64)
    return Matches(*(np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)), missed)


def _iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Of boxes x, y, width, height."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (one[2] * one[3] + other[2] * other[3] - width * height)


# The rows of the report's tables, and whether a figure belongs to one.
GROUPS = {
    "front": lambda matches: ~matches.back & ~matches.hidden,
    "back": lambda matches: matches.back & ~matches.hidden,
    "cannot be told": lambda matches: matches.hidden,
}


def summarise(matches: Matches, components: int) -> dict[str, Any]:
    """Numbers of a report: {"found", "missed", "cramers_v", "groups": {name: {...}}}.

    cramers_v is between component and view, of the figures whose view can be told. Each group of GROUPS has "figures",
    "components" (figures of each), "oks" and "either", the mean similarity to the truth and to the nearer of the truth
    and its left-right exchange, and "sigma", the median; a mean of nothing is nan.
    """
    told = ~matches.hidden
    return {
        "found": len(matches.oks),
        "missed": matches.missed,
        "cramers_v": cramers_v(matches.component[told], matches.back[told].astype(np.int64)),
        "groups": {
            name: {
                "figures": int(inside.sum()),
                "components": np.bincount(matches.component[inside].clip(0), minlength=components).tolist(),
                "oks": _mean(matches.oks[inside]),
                "either": _mean(np.maximum(matches.oks, matches.swapped)[inside]),
                "sigma": float(np.median(matches.sigma[inside])) if inside.any() else float("nan"),
            }
            for name, belongs in GROUPS.items()
            for inside in (belongs(matches),)
        },
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
