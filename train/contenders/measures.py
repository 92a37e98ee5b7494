"""What is measured of each trained network: one function a task, from its results and the truth to numbers by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from mdnkernels.train.analysis.matching import box_overlap, match_centres
from mdnkernels.train.analysis.scales import scale_correlation
from mdnkernels.train.analysis.size_ranges import ap_of_sizes
from mdnkernels.train.analysis.subject import MIN_SCORE
from mdnkernels.train.analysis.views import match_figures, summarise
from mdnkernels.train.contenders.jobs import REGRESSED, Trained
from mdnkernels.train.contenders.worlds import World
from mdnkernels.train.synthetic.coloured import CATEGORIES, ColouredSceneConfig
from mdnkernels.train.synthetic.poses import PoseSceneConfig
from mdnkernels.train.tasks import TaskName

Measures = dict[str, float]

SIZE_KINDS = ("small", "middle", "large")


def measure_boxes(trained: Trained) -> Measures:
    """Return the AP in percent, of all boxes and of each kind of size, their overlap, and what components stand for.

    Where each kind is a category, its AP is the category's; else COCO's of the range of its sizes. "AP kinds" is the
    mean of the kinds' AP, each of which counts alike, however rare; nan where all sizes are alike. "pearson" and
    "category pearson" are of `scale_correlation`, over detections of at least MIN_SCORE. "largest share" is that of the
    component that says most of them. "overlap" of a kind is the mean intersection over union, in percent, of its
    objects with the results that `match_centres` gives them, whatever their category; 0 for none. "overlap rare" is the
    mean of small and large.
    """
    subject = trained.subject
    measures: Measures = {"AP": 100 * subject.metrics["AP"], "AP75": 100 * subject.metrics["AP75"]}
    kinds = size_kinds(trained.job.world)
    nothing = [math.nan] * len(SIZE_KINDS)
    of_kinds = nothing if kinds is None else [100 * value for value in kinds.ap(subject.truth, subject.results)]
    measures |= {f"AP {name}": value for name, value in zip(SIZE_KINDS, of_kinds, strict=True)}
    measures["AP kinds"] = math.fsum(of_kinds) / len(of_kinds)
    overlaps: list[list[float]] = [[] for _ in SIZE_KINDS]
    if kinds is not None:
        for thing, found in match_centres(subject.results, subject.truth["annotations"]):
            overlaps[kinds.of(thing)].append(0.0 if found is None else box_overlap(thing["bbox"], found["bbox"]))
    for name, values in zip(SIZE_KINDS, overlaps, strict=True):
        measures[f"overlap {name}"] = 100 * float(np.mean(values)) if values else math.nan
    measures["overlap rare"] = (measures["overlap small"] + measures["overlap large"]) / 2
    if subject.components:
        strong = subject.strong_results()
        split = scale_correlation(
            [math.sqrt(entry["bbox"][2] * entry["bbox"][3]) for entry in strong],
            [entry["component"] for entry in strong],
            [entry["category_id"] for entry in strong],
        )
        measures["pearson"] = split["component_pearson"]
        measures["category pearson"] = split["category_pearson"]
        measures["cramers v"] = split["cramers_v"]
        measures |= _shares([entry["component"] for entry in strong], subject.components)
    return measures


Entry = Mapping[str, Any]


class SizeKinds(NamedTuple):
    """What tells small, middle and large objects of a world apart."""

    of: Callable[[Entry], int]
    """Returns the kind of an annotation, as its place in SIZE_KINDS."""
    ap: Callable[[Entry, Sequence[Entry]], Sequence[float]]
    """Returns COCO's AP of each kind, in [0, 1], from the content of a COCO-format file and results."""


def size_kinds(world: World) -> SizeKinds | None:
    """Return what tells the kinds of size in a world of boxes apart: categories or sizes; None where all are alike."""
    scene = world.scene
    assert not isinstance(scene, PoseSceneConfig)
    middles = sorted({kind.longer * world.setting.image_size for kind in scene.kinds})
    if len(middles) < len(SIZE_KINDS):
        return None
    if isinstance(scene, ColouredSceneConfig):
        return SizeKinds(lambda thing: _COLOURS.index(thing["category_id"]), _ap_of_colours)
    edges = [math.sqrt(one * other) for one, other in pairwise(middles)]
    return SizeKinds(
        lambda thing: int(np.searchsorted(edges, math.sqrt(thing["bbox"][2] * thing["bbox"][3]))),
        lambda truth, results: ap_of_sizes(truth, results, edges),
    )


_COLOURS = tuple(CATEGORIES)


def _ap_of_colours(truth: Entry, results: Sequence[Entry]) -> list[float]:
    """Return the AP of each category of coloured shapes."""
    found: list[float] = []
    for colour in _COLOURS:
        own, of_own = (
            [entry for entry in entries if entry["category_id"] == colour]
            for entries in (truth["annotations"], results)
        )
        found += ap_of_sizes({**truth, "annotations": own}, of_own, ())
    return found


def measure_poses(trained: Trained) -> Measures:
    """Return the AP in percent, and the similarity to the truth (OKS) where the view can be told and where it cannot.

    "AP" is of poses as they are evaluated: keypoints move to the peaks of their heatmaps. All else is of what is
    regressed, before that. "either told", "either hidden": similarity to the nearer of the truth and its left-right
    exchange. "cramers v": of component and view, where it can be told. "weight told", "weight hidden": mean mixing
    weight of the component that is taken. "sigma back over front": of the medians of `summarise`.
    """
    subject = trained.subject
    assert subject.task.skeleton is not None
    regressed = subject.evaluate(REGRESSED)
    matches = match_figures(regressed.results, subject.truth["annotations"], subject.task.skeleton, MIN_SCORE)
    measures: Measures = {"AP": 100 * subject.metrics["AP"], "AP regressed": 100 * regressed.metrics["AP"]}
    either = np.maximum(matches.oks, matches.swapped)
    for name, inside in (("told", ~matches.hidden), ("hidden", matches.hidden)):
        measures[f"OKS {name}"] = float(matches.oks[inside].mean()) if inside.any() else math.nan
        measures[f"either {name}"] = float(either[inside].mean()) if inside.any() else math.nan
        if subject.components:
            measures[f"weight {name}"] = float(matches.weight[inside].mean()) if inside.any() else math.nan
    if subject.components:
        summary: dict[str, Any] = summarise(matches, subject.components)
        measures["cramers v"] = summary["cramers_v"]
        front, back = (summary["groups"][name]["sigma"] for name in ("front", "back"))
        measures["sigma back over front"] = back / front
        measures |= _shares(matches.component.tolist(), subject.components)
    return measures


def _shares(chosen: list[int], components: int) -> Measures:
    """Return the share of the component that is taken most, and how many are taken for 1 % or more."""
    if not chosen:
        return {"largest share": math.nan, "used": math.nan}
    share = np.bincount(chosen, minlength=components) / len(chosen)
    return {"largest share": float(share.max()), "used": float(np.count_nonzero(share >= 0.01))}


MEASURES: dict[TaskName, Callable[[Trained], Measures]] = {"detection": measure_boxes, "pose": measure_poses}
