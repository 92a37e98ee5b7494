"""The tasks by name: what a network can be trained for.

A task is a file of this folder, whose `TASK` is its class, and a line here. This module imports no torch: the command
line is made from it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mdnkernels.models import Skeleton
    from mdnkernels.train.data.coco import Category
    from mdnkernels.train.tasks.base import Task

TaskName = Literal[
    "detection",
    "pose",
]


def task_class(name: TaskName) -> type[Task]:
    """Return the class of the named task, whose file is imported only now."""
    task: type[Task] = importlib.import_module(f"mdnkernels.train.tasks.{name}").TASK
    return task


def make_task(name: TaskName, categories: Sequence[Category], skeleton: Skeleton | None = None) -> Task:
    """Return the named task on data of these categories.

    skeleton: that the data's keypoints were read with; None for the task's own. Raises ConfigError where the data is
    not for this task.
    """
    return task_class(name)(categories, skeleton)
