"""Whether a list of annotations has anything to learn or to find, and if not, why."""

from __future__ import annotations

import numpy as np

from mdnkernels.train.data.coco import CocoAnnotations


def can_be_targets(annotations: CocoAnnotations) -> np.ndarray:
    """Return which annotations a network can be trained to find, (A,) bool.

    Left out are crowds, and people without any labelled keypoint where the list was read for poses.
    """
    left_out = [wrong for wrong, _ in _reasons(annotations)]
    return ~np.logical_or.reduce(left_out)


def why_no_object(annotations: CocoAnnotations) -> str | None:
    """Say why none of the annotations can be a target, with their counts; None where one can."""
    if can_be_targets(annotations).any():
        return None
    counted = np.zeros(len(annotations.labels), dtype=np.bool_)
    counts = []
    for wrong, name in _reasons(annotations):
        counts.append((int((wrong & ~counted).sum()), name))
        counted |= wrong
    if annotations.skipped:
        counts.append((len(annotations.skipped), f"left out as bad entries (the first: {annotations.skipped[0]})"))
    found = [(count, name) for count, name in counts if count]
    if not found:
        return "there are no annotations"
    total = sum(count for count, _ in found)
    if len(found) == 1:
        return f"{total} annotations, all of them {found[0][1]}"
    return f"{total} annotations: " + ", ".join(f"{count} {name}" for count, name in found)


def _reasons(annotations: CocoAnnotations) -> list[tuple[np.ndarray, str]]:
    """Return each reason why an annotation is no target: (A,) bool of those that it holds for, and its words."""
    reasons = [(annotations.crowd, "crowds (iscrowd is 1)")]
    if annotations.keypoints.shape[1]:
        unlabelled = (annotations.keypoints[..., 2] == 0).all(1)
        reasons.append((unlabelled, "people without a labelled keypoint (every v is 0)"))
    return reasons
