"""Counting a network's parameters and multiply-accumulates, without computing anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import torch
import torchvision  # noqa: F401  # registers torchvision::deform_conv2d
from torch.utils.flop_counter import FlopCounterMode

from mdnkernels.models.detector import Detector
from mdnkernels.models.pose import PoseEstimator

Shape = tuple[int, ...]
R = TypeVar("R")


@dataclass(frozen=True)
class Cost:
    """What a network costs for one image: forward passes of convolutions and matrix products, nothing else."""

    parameters: int
    multiply_accumulates: dict[str, int]  # by how the network is evaluated
    dense_shapes: dict[str, Shape]  # of each output, the image's
    sparse_shapes: dict[str, Shape]


def count(build: Callable[[], Detector | PoseEstimator], *, size: int, objects: int = 128, peaks: int = 100) -> Cost:
    """Count the cost of the network that `build` makes, on a square image of `size` pixels.

    objects: centres to an image in sparse training (in pose each has all its keypoints). peaks: in inference. Raises
    ValueError for a size that the network cannot take.
    """
    with torch.device("meta"):
        # In training mode batch norm would refuse a single cell.
        model = build().eval()
        images = torch.empty(1, 3, size, size)
        cells = [torch.empty(1, objects, dtype=torch.int64)]
        if isinstance(model, PoseEstimator):
            cells.append(torch.empty(1, objects * len(model.skeleton.names), dtype=torch.int64))
        dense, dense_macs = _counted(lambda: model(images))
        sparse, training_macs = _counted(lambda: model(images, *cells))
        _, inference_macs = _counted(lambda: model.predict(images, k=peaks))
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        multiply_accumulates={
            "dense": dense_macs,
            "sparse, training": training_macs,
            "sparse, inference": inference_macs,
        },
        dense_shapes={name: tuple(values.shape) for name, values in dense[-1].items()},
        sparse_shapes={name: tuple(values.shape) for name, values in sparse[-1].items()},
    )


def _counted(call: Callable[[], R]) -> tuple[R, int]:
    formulas = {torch.ops.torchvision.deform_conv2d: _deformable_flops}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter, torch.no_grad():
        result = call()
    return result, counter.get_total_flops() // 2


def _deformable_flops(x: Shape, weight: Shape, *_: object, out_shape: Shape, **__: object) -> int:
    """Count two for each weight that each output cell reads; finding the taps is not counted."""
    return 2 * out_shape[0] * prod(out_shape[2:]) * prod(weight)
