"""Boxes and numbers of COCO's entries, from a network's tensors and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mdnkernels.models import Detections, Poses
from mdnkernels.train.data.transforms import clip_boxes


def clipped_boxes(found: Detections | Poses, image_size: tuple[int, int]) -> list[tuple[int, list[float]]]:
    """Return the row and x, y, width, height of what the image's borders leave of each box; nothing of padding."""
    boxes = clip_boxes(found.box.double().numpy(), *image_size)
    sides = boxes[:, 2:] - boxes[:, :2]
    real = (found.label >= 0).nonzero().flatten().tolist()
    return [(row, rounded(np.concatenate((boxes[row, :2], sides[row])))) for row in real]


def corners_of(entries: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """Return the boxes of COCO's entries as corners, (N, 4) x1 y1 x2 y2."""
    boxes = np.array([one["bbox"] for one in entries], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def rounded(values: Tensor | NDArray[np.float64]) -> list[float]:
    """Return numbers for JSON, to three decimals."""
    return [round(float(value), 3) for value in values]
