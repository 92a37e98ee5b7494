"""What each component of a pose mixture says: which view it is of, by the sides of the body, and how unsure it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdnkernels.train.analysis.paper import paper_lines
from mdnkernels.train.analysis.parts import sides_of, skeleton_of
from mdnkernels.train.analysis.subject import MIN_SCORE, Section, Subject, mixtures_of
from mdnkernels.train.analysis.tables import markdown_table, percent, shown

VIEWS = ("front", "back", "neither")
# By how much the shares of left and of right parts on the picture's right must differ, for a component to be of a view.
MARGIN = 0.1


def analyse(subjects: Sequence[Subject]) -> Section:
    """Say how often each mixture's components are taken, how unsure they are, and where they place the body's sides.

    Raises ConfigError where no network has a mixture, or the keypoints have no left and right.
    """
    summaries = {mixture.title: summarise_components(mixture) for mixture in mixtures_of(subjects)}
    lines = [*_lines(summaries), *paper_lines(subjects[0].truth, "viewpoint")]
    return Section(lines, {"viewpoint": summaries}, {})


def summarise_components(mixture: Subject) -> dict[int, dict[str, Any]]:
    """Return for each component the numbers of its predictions with a score of MIN_SCORE or more.

    "predictions" and "share"; "sigma_x", "sigma_y": {"mean", "std"} over the predictions, in the picture's pixels and
    before a keypoint's constant; "relative_sigma": the mean of sqrt(sigma_x sigma_y / area), the area of the
    prediction's box; "left_x", "right_x", "left_y", "right_y": the share of those of the body's left or right parts
    whose x or y lies beyond the middle of the prediction's box, which ends at the picture's border; "view", of VIEWS.
    A number of nothing is nan.

    Someone who faces the viewer has the left side on the picture's right: a component is of the front where left_x is
    above right_x by more than MARGIN, of the back where it is as much below. Raises ConfigError where the keypoints
    have no left and right.
    """
    left, right = sides_of(mixture)
    strong = mixture.strong_results()
    component = np.array([one["component"] for one in strong], dtype=np.int64)
    boxes = np.array([one["bbox"] for one in strong], dtype=np.float64).reshape(-1, 4)
    sigma = np.array([one["sigma"] for one in strong], dtype=np.float64).reshape(-1, 2)
    joints = len(skeleton_of(mixture).names)
    points = np.array([one["keypoints"] for one in strong], dtype=np.float64).reshape(-1, joints, 3)[..., :2]
    positive = points > (boxes[:, :2] + boxes[:, 2:] / 2)[:, None]
    # Of a box that has nothing inside the picture the size is unknown.
    area = np.where(boxes[:, 2:].prod(1) > 0, boxes[:, 2:].prod(1), np.nan)
    relative = np.sqrt(sigma.prod(1) / area)
    summary: dict[int, dict[str, Any]] = {}
    for m in range(mixture.components):
        own = component == m
        shares = {
            f"{side}_{axis}": _mean(positive[own][:, parts, number])
            for number, axis in enumerate("xy")
            for side, parts in (("left", left), ("right", right))
        }
        summary[m] = {
            "predictions": int(own.sum()),
            "share": _mean(own),
            "sigma_x": {"mean": _mean(sigma[own, 0]), "std": _std(sigma[own, 0])},
            "sigma_y": {"mean": _mean(sigma[own, 1]), "std": _std(sigma[own, 1])},
            "relative_sigma": _mean(relative[own & ~np.isnan(relative)]),
            **shares,
            "view": view_of(shares["left_x"], shares["right_x"]),
        }
    return summary


def view_of(left: float, right: float) -> str:
    """Return which of VIEWS it is where these shares of left and of right parts lie on the picture's right."""
    if left - right > MARGIN:
        return "front"
    return "back" if right - left > MARGIN else "neither"


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if values.size else math.nan


def _std(values: NDArray[np.float64]) -> float:
    return float(values.std()) if values.size else math.nan


def _lines(summaries: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    rows = [
        [
            *(title, str(m), one["view"], str(one["predictions"]), percent(one["share"], 1)),
            *(f"{shown(one[name]['mean'], 1)} ({shown(one[name]['std'], 1)})" for name in ("sigma_x", "sigma_y")),
            shown(one["relative_sigma"], 2),
            *(percent(one[name]) for name in ("left_x", "right_x", "left_y", "right_y")),
        ]
        for title, summary in summaries.items()
        for m, one in summary.items()
    ]
    header = [
        *("network", "component", "view", "predictions", "share", "sigma x", "sigma y", "sigma / size"),
        *("left, x > 0", "right, x > 0", "left, y > 0", "right, y > 0"),
    ]
    return [
        "### The components by their predictions",
        "",
        f"Of the predictions with a score of {MIN_SCORE} or more. sigma, before a keypoint's own constant, is in "
        "pixels: the mean over the predictions, in brackets the standard deviation. sigma / size is sqrt(sigma x "
        "sigma y / the box's area). The offsets of the body's left and right parts are from the middle of the "
        "prediction's box, and y points down. Someone who faces the viewer has the left side on the picture's right: "
        f"a component is of the front where the share of left parts with x > 0 is more than {100 * MARGIN:.0f} points "
        "above that of right parts, and of the back where it is as far below.",
        "",
        *markdown_table(header, rows, words=3),
    ]
