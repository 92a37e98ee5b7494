"""What is measured of each trained network: one function a task, from its results and the truth to numbers by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from train.analysis.matching import box_overlap, match_centres
from train.analysis.scales import scale_correlation
from train.analysis.size_ranges import ap_of_sizes
from train.analysis.subject import MIN_SCORE
from train.analysis.views import match_figures, summarise
from train.contenders.jobs import REGRESSED, Trained
from train.synthetic.detection import DetectionSceneConfig
from train.tasks import TaskName

Measures = dict[str, float]

SIZE_KINDS = ("small", "middle", "large")


def measure_boxes(trained: Trained) -> Measures:
    """Return the AP in percent, of all boxes and of each kind of size, their overlap, and what components stand for.

    "AP kinds" is the mean of the kinds' AP, each of which counts alike, however rare; nan where all sizes are alike.
    "pearson" and "category pearson" are of `scale_correlation`, over detections of at least MIN_SCORE. "largest share"
    is that of the component that says most of them. "overlap" of a kind is the mean intersection over union, in
    percent, of its objects with the results that `match_centres` gives them, whatever their category; 0 for none.
    "overlap rare" is the mean of small and large.
    """
    subject = trained.subject
    measures: Measures = {"AP": 100 * subject.metrics["AP"], "AP75": 100 * subject.metrics["AP75"]}
    kinds = [100 * value for value in ap_of_sizes(subject.truth, subject.results, size_edges(trained))]
    alike = len(kinds) < len(SIZE_KINDS)
    measures |= {f"AP {name}": math.nan if alike else kinds[i] for i, name in enumerate(SIZE_KINDS)}
    measures["AP kinds"] = math.nan if alike else math.fsum(kinds) / len(kinds)
    overlaps: list[list[float]] = [[] for _ in SIZE_KINDS]
    edges = size_edges(trained)
    for thing, found in match_centres(subject.results, subject.truth["annotations"]):
        kind = int(np.searchsorted(edges, math.sqrt(thing["bbox"][2] * thing["bbox"][3])))
        overlaps[kind].append(0.0 if found is None else box_overlap(thing["bbox"], found["bbox"]))
    for name, values in zip(SIZE_KINDS, overlaps, strict=True):
        measures[f"overlap {name}"] = 100 * float(np.mean(values)) if values and not alike else math.nan
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


def size_edges(trained: Trained) -> list[float]:
    """Return the sizes in pixels that part the kinds of a world's boxes; none where all are alike."""
    scene = trained.job.world.scene
    assert isinstance(scene, DetectionSceneConfig)
    middles = sorted({kind.longer * trained.job.world.setting.image_size for kind in scene.kinds})
    return [math.sqrt(one * other) for one, other in pairwise(middles)]


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
