"""What is measured of each trained network: one function a task, from its results and the truth to numbers by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from train.analysis.scales import scale_correlation
from train.analysis.size_ranges import ap_of_sizes
from train.analysis.subject import MIN_SCORE
from train.analysis.views import match_figures, summarise
from train.contenders.jobs import Trained
from train.synthetic.detection import DetectionSceneConfig
from train.tasks import TaskName

Measures = dict[str, float]

SIZE_KINDS = ("small", "middle", "large")


def measure_boxes(trained: Trained) -> Measures:
    """Return the AP in percent, of all boxes and of each kind of size, and what the components stand for.

    "AP kinds" is the mean of the kinds' AP, each of which counts alike, however rare; nan where all sizes are alike.
    "pearson" and "category pearson" are of `scale_correlation`, over detections of at least MIN_SCORE. "largest share"
    is that of the component that says most of them.
    """
    subject = trained.subject
    measures: Measures = {"AP": 100 * subject.metrics["AP"], "AP75": 100 * subject.metrics["AP75"]}
    kinds = [100 * value for value in ap_of_sizes(subject.truth, subject.results, size_edges(trained))]
    alike = len(kinds) < len(SIZE_KINDS)
    measures |= {f"AP {name}": math.nan if alike else kinds[i] for i, name in enumerate(SIZE_KINDS)}
    measures["AP kinds"] = math.nan if alike else math.fsum(kinds) / len(kinds)
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

    "either told", "either hidden": similarity to the nearer of the truth and its left-right exchange. "cramers v": of
    component and view, where it can be told. "weight told", "weight hidden": mean mixing weight of the component that
    is taken. "sigma back over front": of the medians of `summarise`.
    """
    subject = trained.subject
    assert subject.task.skeleton is not None
    matches = match_figures(subject.results, subject.truth["annotations"], subject.task.skeleton, MIN_SCORE)
    measures: Measures = {"AP": 100 * subject.metrics["AP"], "AP75": 100 * subject.metrics["AP75"]}
    either = np.maximum(matches.oks, matches.swapped)
    for name, inside in (("told", ~matches.hidden), ("hidden", matches.hidden)):
        measures[f"OKS {name}"] = float(matches.oks[inside].mean()) if inside.any() else math.nan
        measures[f"either {name}"] = float(either[inside].mean()) if inside.any() else math.nan
    if subject.components:
        summary: dict[str, Any] = summarise(matches, subject.components)
        measures["cramers v"] = summary["cramers_v"]
        for name, inside in (("told", ~matches.hidden), ("hidden", matches.hidden)):
            measures[f"weight {name}"] = float(matches.weight[inside].mean()) if inside.any() else math.nan
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
