"""What a mixture's components stand for in poses: the side a figure is seen from, where that can be told or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdnkernels.models.skeleton import Skeleton
from mdnkernels.train.analysis.association import cramers_v
from mdnkernels.train.analysis.matching import match_results, object_keypoint_similarity
from mdnkernels.train.analysis.parts import skeleton_of
from mdnkernels.train.analysis.subject import MIN_SCORE, Section, Subject, mixtures_of
from mdnkernels.train.analysis.tables import markdown_table, shown
from mdnkernels.train.errors import ConfigError

# The rows of the report's table, and whether a figure belongs to one.
GROUPS: dict[str, Callable[[Matches], NDArray[np.bool_]]] = {
    "front": lambda matches: ~matches.back & ~matches.hidden,
    "back": lambda matches: matches.back & ~matches.hidden,
    "cannot be told": lambda matches: matches.hidden,
}


def analyse(subjects: Sequence[Subject]) -> Section:
    """Say how often each component is taken for figures seen from the front, from the back, and from either.

    Raises ConfigError where no network has a mixture, and where the truth does not say the view.
    """
    mixtures_of(subjects)
    truth = subjects[0].truth["annotations"]
    if not all("view" in one and "cue_hidden" in one for one in truth):
        source = subjects[0].annotations
        raise ConfigError(f"{source}: annotations: have no view and cue_hidden, as synthetic poses have")
    summaries = {}
    for subject in subjects:
        matches = match_figures(subject.results, truth, skeleton_of(subject), MIN_SCORE)
        summaries[subject.title] = summarise(matches, subject.components)
    return Section(_lines(summaries), {"views": summaries}, {})


def _lines(summaries: Mapping[str, dict[str, Any]]) -> list[str]:
    rows = [
        [
            *(title, name, str(group["figures"]), " / ".join(map(str, group["components"])) or "none"),
            *(shown(group[number], 2) for number in ("oks", "either", "sigma")),
        ]
        for title, summary in summaries.items()
        for name, group in summary["groups"].items()
    ]
    associations = [
        [title, shown(summary["cramers_v"], 2), str(summary["found"]), str(summary["missed"])]
        for title, summary in summaries.items()
    ]
    return [
        "### What the components stand for",
        "",
        "Figures with keypoints for which the network found a person, by the view, and how often each component was "
        "taken. OKS is the mean similarity to the truth; either: to the nearer of the truth and its left-right "
        "exchange, of which nothing in the picture tells where the view cannot be told. sigma is the median standard "
        "deviation over the figure's size, before a keypoint's own constant.",
        "",
        *markdown_table(["network", "view", "figures", "components", "OKS", "either", "sigma"], rows, words=2),
        "Cramer's V is the association of component and view, where it can be told.",
        "",
        *markdown_table(["network", "Cramer's V", "figures found", "not found"], associations),
    ]


class Matches(NamedTuple):
    """Figures of the truth that a result was found for, n of them."""

    component: NDArray[Any]
    """(n,) int64, -1 for the single-mode base."""
    back: NDArray[Any]
    """(n,) bool: seen from the back."""
    hidden: NDArray[Any]
    """(n,) bool: nothing in the picture tells front from back."""
    oks: NDArray[Any]
    """(n,) float64: similarity to the truth, in [0, 1]."""
    swapped: NDArray[Any]
    """(n,) float64: similarity to the truth with left and right exchanged."""
    sigma: NDArray[Any]
    """(n,) float64: geometric mean of x's and y's standard deviation over the square root of the figure's area."""
    weight: NDArray[Any]
    """(n,) float64: mixing weight of the component; nan where the results do not say it."""
    missed: int
    """Figures with keypoints that no result was found for."""


def match_figures(
    results: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]], skeleton: Skeleton, min_score: float
) -> Matches:
    """Match each labelled figure with the strongest result at its place, as `match_results` does.

    results: a pose task's. truth: annotations that say the view, as those of a synthetic set of poses do.
    """
    rows: list[tuple[Any, ...]] = []
    missed = 0
    for figure, best in match_results(results, [one for one in truth if one["num_keypoints"]], min_score):
        if best is None:
            missed += 1
            continue
        points = np.reshape(best["keypoints"], (-1, 3))[:, :2]
        labels = np.reshape(figure["keypoints"], (-1, 3)).astype(np.float64)
        oks, swapped = (
            object_keypoint_similarity(points, one, figure["area"], skeleton.sigmas)
            for one in (labels, labels[list(skeleton.mirrored)])
        )
        spread = float(np.sqrt(np.prod(best["sigma"]) / figure["area"]))
        view = (figure["view"] == "back", figure["cue_hidden"])
        rows.append((best["component"], *view, oks, swapped, spread, best.get("weight", np.nan)))
    columns = list(zip(*rows, strict=True)) or [()] * 7
    return Matches(
        component=np.array(columns[0], dtype=np.int64),
        back=np.array(columns[1], dtype=np.bool_),
        hidden=np.array(columns[2], dtype=np.bool_),
        oks=np.array(columns[3], dtype=np.float64),
        swapped=np.array(columns[4], dtype=np.float64),
        sigma=np.array(columns[5], dtype=np.float64),
        weight=np.array(columns[6], dtype=np.float64),
        missed=missed,
    )


def summarise(matches: Matches, components: int) -> dict[str, Any]:
    """Return the numbers of a report: {"found", "missed", "cramers_v", "groups": {name: {...}}}.

    components: of the network's mixture; 0 for the single-mode base, which has no sigma.
    cramers_v is between component and view, of the figures whose view can be told. Each group of GROUPS has "figures",
    "components" (figures of each), "oks" and "either", the mean similarity to the truth and to the nearer of the truth
    and its left-right exchange, "weight", the mean of the components' mixing weights, and "sigma", the median; a mean
    of nothing is nan.
    """
    told = ~matches.hidden
    return {
        "found": len(matches.oks),
        "missed": matches.missed,
        "cramers_v": cramers_v(matches.component[told], matches.back[told].astype(np.int64)),
        "groups": {
            name: {
                "figures": int(inside.sum()),
                "components": [int((matches.component[inside] == m).sum()) for m in range(components)],
                "oks": _mean(matches.oks[inside]),
                "either": _mean(np.maximum(matches.oks, matches.swapped)[inside]),
                "weight": _mean(matches.weight[inside]),
                "sigma": float(np.median(matches.sigma[inside])) if components and inside.any() else float("nan"),
            }
            for name, belongs in GROUPS.items()
            for inside in (belongs(matches),)
        },
    }


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean; nan of nothing."""
    return float(values.mean()) if len(values) else float("nan")
