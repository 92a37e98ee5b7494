"""Where the regression of a new run starts: at its training objects, as the network will see them on average."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mdnkernels.models.network import Network
from mdnkernels.models.start import RegressionStart
from mdnkernels.train.config.options import AugmentConfig
from mdnkernels.train.data.coco import CocoAnnotations
from mdnkernels.train.data.images import ImageError, open_image
from mdnkernels.train.data.objects import can_be_targets
from mdnkernels.train.data.sets import TrainingSet
from mdnkernels.train.errors import DatasetError
from mdnkernels.train.tasks.base import Task

# Of images whose size the list does not say, so many are opened to look.
MOST_OPENED = 1000


class SeenObjects(NamedTuple):
    """N training objects that can be targets, in the annotations' pixels, and how large the network sees them."""

    boxes: NDArray[np.float64]
    """(N, 4) x1, y1, x2, y2, cut off at the image's borders."""
    labels: NDArray[np.int64]
    """(N,) class index."""
    keypoints: NDArray[np.float64]
    """(N, J, 3) x, y and 0 where not labelled; J is 0 without keypoints."""
    cells: NDArray[np.float64]
    """(N,) output cells to a pixel of the annotations, the mean over the augmentation's windows."""
    mirrored: tuple[bool, ...]
    """Whether objects are seen as they are, mirrored, or both: (False,), (True,) or (False, True)."""


def start_from_data(model: Network, task: Task, train_set: TrainingSet, seed: int) -> RegressionStart:
    """Let a network's regression start at the objects of its training set, and return that start.

    The objects are the annotations that can be targets, cut off at their images' borders, at the size at which the
    augmentation shows them on average, and mirrored where it mirrors. Raises DatasetError where the size of no image
    with objects is known.
    """
    objects = seen_objects(train_set, model.stride)
    start = model.regression.start(task.sample(objects), seed)
    model.start_regression(start.biases)
    return start


def describe_start(start: RegressionStart, quantity: str) -> list[str]:
    """Return lines for people: what the components start at. quantity: what is regressed, such as "size"."""
    lines = []
    classes, components, dims = start.loc.shape
    for y in range(classes):
        for m in range(components):
            words = [f"class {y}"] if classes > 1 else []
            if start.sigma is None:
                words.append("the base starts at the mean of the objects")
            else:
                words.append(f"component {m} starts at {100 * start.share[y, m]:.1f} % of the objects")
                words.append(f"sigma {_by(start.sigma[y, m])}")
            if dims <= 4:  # more are in the log alone
                words.append(f"{quantity} {_by(start.loc[y, m])} output cells")
            lines.append(", ".join(words))
    return lines


def _by(values: Tensor) -> str:
    return " x ".join(f"{value:.3g}" for value in values.tolist())


def seen_objects(train_set: TrainingSet, stride: int) -> SeenObjects:
    """Return the objects of a training set. stride: input pixels to an output cell.

    Where the list says no size of an image, the image file does, of MOST_OPENED such images at most; objects in others
    are left out. Raises DatasetError where that leaves no object.
    """
    annotations, augment = train_set.annotations, train_set.augment
    sizes = _image_sizes(train_set)
    of_image = annotations.rows()
    rows = np.flatnonzero(can_be_targets(annotations) & (sizes[of_image] > 0).all(1))
    if len(rows) == 0:
        raise DatasetError(
            f"{annotations.path}: says no width and height of images with objects, and none of the first "
            f"{MOST_OPENED} such images can be read: give the sizes, or train with --start zero"
        )
    width, height = sizes[of_image[rows]].T.astype(np.float64)
    boxes = annotations.boxes[rows]
    low, high = np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, 2:], sizes[of_image[rows]])
    input_height, input_width = train_set.size
    per_pixel = 1 / np.maximum(width / input_width, height / input_height)
    return SeenObjects(
        boxes=np.concatenate((low, high), 1),
        labels=annotations.labels[rows],
        keypoints=annotations.keypoints[rows],
        cells=per_pixel * mean_enlargement(augment) / stride,
        mirrored=_mirrored(augment),
    )


def mean_enlargement(augment: AugmentConfig) -> float:
    """Return by how much the augmentation's random windows enlarge objects on average."""
    return float(np.mean(1 / np.array(augment.crop_scales))) if augment.augment else 1.0


def _mirrored(augment: AugmentConfig) -> tuple[bool, ...]:
    """Return in which of the two ways, as they are or mirrored, images are ever seen."""
    flip = augment.flip if augment.augment else 0.0
    return tuple(way for way, share in ((False, 1 - flip), (True, flip)) if share > 0)


def _image_sizes(train_set: TrainingSet) -> NDArray[np.int64]:
    """Return width and height of each image, (I, 2); 0 where neither the list nor an opened file says it."""
    annotations: CocoAnnotations = train_set.annotations
    sizes = annotations.sizes.copy()
    unknown = np.unique(annotations.rows()[(sizes[annotations.rows()] == 0).any(1)])
    for image in unknown[:MOST_OPENED].tolist():
        entry = annotations[image]
        try:
            with open_image(train_set.images / entry.file_name) as file:
                sizes[image] = train_set.size_of(entry, file)
        except ImageError:
            continue  # which the training reports when it comes to it
    return sizes
