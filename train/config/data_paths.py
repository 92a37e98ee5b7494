"""Where the images and annotations of a run lie."""

from __future__ import annotations

import dataclasses

from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.tasks import task_class


def with_data_paths(config: FitConfig) -> FitConfig:
    """Write --coco out as the four paths that it stands for; those that are given beside it stay."""
    data = config.data
    if data.coco is None:
        return config
    kind = task_class(config.model.task).coco_annotations
    data = dataclasses.replace(
        data,
        coco=None,
        train_images=data.train_images or data.coco / "train2017",
        train_annotations=data.train_annotations or data.coco / "annotations" / f"{kind}_train2017.json",
        val_images=data.val_images or data.coco / "val2017",
        val_annotations=data.val_annotations or data.coco / "annotations" / f"{kind}_val2017.json",
    )
    return dataclasses.replace(config, data=data)
