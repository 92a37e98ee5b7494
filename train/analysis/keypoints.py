"""How well networks place which keypoints: COCO's AP of subsets of them, beside that of the truth moved by pixels."""

from __future__ import annotations

import dataclasses
import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdnkernels.models.skeleton import Skeleton
from mdnkernels.train.analysis.parts import keypoints_named, skeleton_of
from mdnkernels.train.analysis.subject import Section, Subject
from mdnkernels.train.analysis.tables import markdown_table
from mdnkernels.train.data.coco import CocoAnnotations
from mdnkernels.train.data.sets import open_annotations
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.tasks.score import average_precision

DISPLACEMENTS = (1, 2, 3)
"""In pixels."""
# COCO's evaluation of keypoints looks at so many results of an image.
_MOST_RESULTS = 20


def analyse(subjects: Sequence[Subject]) -> Section:
    """Say each network's AP of subsets of the keypoints, and that of the truth displaced by pixels.

    Raises ConfigError where the task has no keypoints, and where the truth has none labelled.
    """
    one = subjects[0]
    skeleton = skeleton_of(one)
    listed = open_annotations(one.annotations, skeleton)
    images = {image["id"] for image in one.truth["images"]}
    annotations = listed.chosen(np.flatnonzero(np.isin(listed.image_ids, list(images))))
    if not (annotations.keypoints[~annotations.crowd, :, 2] > 0).any():
        raise ConfigError(f"{one.annotations}: annotations: no keypoint of anyone is labelled")
    subsets = subsets_of(skeleton)
    scores = {subject.title: subset_precisions(annotations, subject.results, skeleton, subsets) for subject in subjects}
    displaced = {
        pixels: subset_precisions(annotations, displaced_truth(annotations, pixels), skeleton, subsets)
        for pixels in DISPLACEMENTS
    }
    numbers = {"keypoint_ap": {"networks": scores, "displaced_truth": displaced}}
    return Section(_lines(scores, displaced, list(subsets)), numbers, {})


def subsets_of(skeleton: Skeleton) -> dict[str, tuple[int, ...]]:
    """Return positions of keypoints by the name of the subset, those that the skeleton has.

    "all"; "facial", the nose, the eyes and the ears, and "non-facial", the others, where it has both; "nose", "ears",
    "shoulders", "wrists", "hips", "ankles". What a keypoint is is known by its name.
    """
    everything = tuple(range(len(skeleton.names)))
    facial = keypoints_named(skeleton, "nose", "eye", "ear")
    rest = tuple(keypoint for keypoint in everything if keypoint not in facial)
    subsets = {"all": everything}
    if facial and rest:
        subsets |= {"facial": facial, "non-facial": rest}
    subsets["nose"] = keypoints_named(skeleton, "nose")
    for name in ("ear", "shoulder", "wrist", "hip", "ankle"):
        subsets[f"{name}s"] = keypoints_named(skeleton, name)
    return {name: keypoints for name, keypoints in subsets.items() if keypoints}


def subset_precisions(
    annotations: CocoAnnotations,
    results: Sequence[dict[str, Any]],
    skeleton: Skeleton,
    subsets: Mapping[str, Sequence[int]],
) -> dict[str, float]:
    """Return COCO's AP, in [0, 1], of each subset of the keypoints; nan where none of them is labelled.

    The other keypoints count as not labelled. Someone of whom none of the subset is labelled is not to be found, and
    who finds him all the same is not wrong, as COCO has it of people without keypoints.
    """
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    best = [one for here in by_image.values() for one in heapq.nlargest(_MOST_RESULTS, here, key=_score)]
    scores = {}
    for name, keypoints in subsets.items():
        labelled = annotations.keypoints.copy()
        labelled[:, [joint for joint in range(labelled.shape[1]) if joint not in keypoints], 2] = 0
        of_subset = dataclasses.replace(annotations, keypoints=labelled)
        score = average_precision(of_subset, best, kind="keypoints", skeleton=skeleton)
        scores[name] = score if score >= 0 else float("nan")
    return scores


def _score(result: Mapping[str, Any]) -> float:
    return float(result["score"])


def displaced_truth(annotations: CocoAnnotations, pixels: float, seed: int = 0) -> list[dict[str, Any]]:
    """Return results of a detector that finds everyone, and places each keypoint so many pixels beside its true place.

    The directions are random, uniform over the circle. People of whom nothing is labelled and crowds are not found. A
    keypoint that is not labelled is in the middle of its box: a detector knows where on the person it is.
    """
    rng = np.random.default_rng(seed)
    labelled = annotations.keypoints[..., 2] > 0
    middle = (annotations.boxes[:, :2] + annotations.boxes[:, 2:]) / 2
    places: NDArray[np.float64] = np.where(labelled[..., None], annotations.keypoints[..., :2], middle[:, None])
    angle = rng.uniform(0, 2 * np.pi, labelled.shape)
    places = places + pixels * np.stack((np.cos(angle), np.sin(angle)), axis=2)
    images = annotations.image_ids[annotations.rows()]
    return [
        {
            "image_id": int(images[row]),
            "category_id": annotations.categories[int(annotations.labels[row])].id,
            "keypoints": np.concatenate((places[row], np.ones((len(places[row]), 1))), axis=1).ravel().tolist(),
            "score": 1.0,
        }
        for row in np.flatnonzero(labelled.any(1) & ~annotations.crowd).tolist()
    ]


def _lines(
    scores: Mapping[str, Mapping[str, float]], displaced: Mapping[int, Mapping[str, float]], subsets: Sequence[str]
) -> list[str]:
    named = dict(scores) | {f"truth, {pixels} px beside": values for pixels, values in displaced.items()}
    rows = [
        [title, *("none" if np.isnan(values[name]) else f"{100 * values[name]:.1f}" for name in subsets)]
        for title, values in named.items()
    ]
    return [
        "### AP by keypoints",
        "",
        "COCO's AP (OKS) in percent where the other keypoints count as not labelled; facial are the nose, the eyes and "
        "the ears. The truth is that of a detector that finds everyone and places each keypoint so many pixels of the "
        "picture beside its true place, in a random direction.",
        "",
        *markdown_table(["network", *subsets], rows),
    ]
