"""The parts of a skeleton: its left and its right keypoints, and those of a name."""

from __future__ import annotations

import re

from mdnkernels.models.skeleton import Skeleton, name_words
from mdnkernels.train.analysis.subject import Subject
from mdnkernels.train.errors import ConfigError


def skeleton_of(subject: Subject) -> Skeleton:
    """Return a network's skeleton. Raises ConfigError where its task has none."""
    if subject.task.skeleton is None:
        raise ConfigError(f"{subject.run}: --task {subject.task.name} has no keypoints; this analysis is of poses")
    return subject.task.skeleton


def sides_of(subject: Subject) -> tuple[list[int], list[int]]:
    """Return a skeleton's left keypoints and their right partners. Raises ConfigError where it has no pairs."""
    pairs = skeleton_of(subject).flip_pairs
    if not pairs:
        raise ConfigError(
            f"{subject.run}: its keypoints are of no pairs of left and right, by which front and back could be told; "
            "names such as left_eye and right_eye make one"
        )
    return [left for left, _ in pairs], [right for _, right in pairs]


def keypoints_named(skeleton: Skeleton, *parts: str) -> tuple[int, ...]:
    """Return the keypoints whose names have a word of `parts`, of either side.

    "ear" finds left_ear, R_Ear, earL, rightear and ears, and not forearm.
    """
    return tuple(
        keypoint
        for keypoint, name in enumerate(skeleton.names)
        if any(re.sub("left|right", "", word).removesuffix("s") in parts for word in name_words(name))
    )
