"""Keypoints are known by their names, whatever the spelling."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdnkernels.models import COCO_PERSON, Skeleton
from mdnkernels.train.analysis.parts import keypoints_named, sides_of
from mdnkernels.train.analysis.subject import Subject
from mdnkernels.train.data.coco import Category
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.tasks.base import Task
from mdnkernels.train.tasks.detection import DetectionTask
from mdnkernels.train.tasks.pose import PoseTask
from tests.train.animals import SKELETON as ANIMAL

SPELLED = Skeleton(
    ("Left Ear", "R_Ear", "earL", "rightear", "ears", "forearm", "EyeR", "L_Hip", "nose-tip"), (0.05,) * 9
)


def test_parts_are_found_on_either_side() -> None:
    assert keypoints_named(SPELLED, "ear") == (0, 1, 2, 3, 4)
    assert keypoints_named(SPELLED, "nose", "eye") == (6, 8)
    assert keypoints_named(COCO_PERSON, "nose", "eye", "ear") == (0, 1, 2, 3, 4)
    assert keypoints_named(COCO_PERSON, "hip") == (11, 12)
    assert keypoints_named(ANIMAL, "wrist") == ()


def subject(task: Task) -> Subject:
    return Subject("mixture", Path("run"), task, 2, Path(), Path(), [], {})


def test_sides_are_those_of_the_flip_pairs() -> None:
    assert sides_of(subject(PoseTask([Category(1, "mouse")], ANIMAL))) == ([1], [2])


def test_a_network_without_keypoints_or_without_sides_is_refused() -> None:
    with pytest.raises(ConfigError, match="--task detection has no keypoints"):
        sides_of(subject(DetectionTask([])))
    with pytest.raises(ConfigError, match="no pairs of left and right"):
        sides_of(subject(PoseTask([Category(1, "arrow")], Skeleton(("tip", "end"), (0.05, 0.05)))))
