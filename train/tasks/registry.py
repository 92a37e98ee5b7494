"""The tasks by name."""

from __future__ import annotations

from collections.abc import Sequence

from models import COCO_PERSON, Skeleton
from train.config.options import TaskName
from train.data.coco import Category
from train.data.skeletons import SkeletonInFile
from train.errors import ConfigError
from train.tasks.base import Task
from train.tasks.detection import DetectionTask
from train.tasks.pose import PoseTask


def make_task(name: TaskName, categories: Sequence[Category], skeleton: Skeleton | None = None) -> Task:
    """The named task; poses without a skeleton are of COCO's persons. Raises ConfigError where the data cannot be."""
    return PoseTask(categories, skeleton or COCO_PERSON) if name == "pose" else DetectionTask(categories)


def skeleton_to_read(name: TaskName, sigmas: tuple[float, ...] | None) -> SkeletonInFile | None:
    """What a task's annotations are to be read with, where they say the skeleton. sigmas: --keypoint-sigmas.

    Raises ConfigError for sigmas of a task without keypoints.
    """
    if name == "pose":
        return SkeletonInFile(sigmas)
    if sigmas is not None:
        raise ConfigError(f"--keypoint-sigmas: --task {name} has no keypoints; leave it out, or take --task pose")
    return None
