"""Boxes and numbers of COCO's entries, from a network's tensors and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from models import Detections, Poses
from train.data.transforms import clip_boxes


def clipped_boxes(found: Detections | Poses, image_size: tuple[int, int]) -> list[tuple[int, list[float]]]:
    """Row and x, y, width, height of what the image's borders leave of each box; nothing of padding."""
    boxes = clip_boxes(found.box.double().numpy(), *image_size)
    sides = boxes[:, 2:] - boxes[:, :2]
    real = (found.label >= 0).nonzero().flatten().tolist()
    return [(row, rounded(np.concatenate((boxes[row, :2], sides[row])))) for row in real]


def corners_of(entries: Sequence[dict[str, Any]]) -> np.ndarray:
    """(N, 4) x1 y1 x2 y2 of COCO entries' boxes."""
    boxes = np.array([one["bbox"] for one in entries], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def rounded(values: Tensor | np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in values]
