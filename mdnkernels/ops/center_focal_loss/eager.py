"""Penalty-reduced focal loss that draws its own targets, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from mdnkernels.ops.heatmap_focal_loss.eager import heatmap_focal_loss
from mdnkernels.ops.splat_gaussians.eager import splat_gaussians

# Of a cell that is no centre, however wide the Gaussian is.
BELOW_ONE = 1 - 2**-24


def center_focal_loss(
    logits: Tensor, center: Tensor, radius: Tensor, label: Tensor, ignore: Tensor | None, alpha: float, beta: float
) -> Tensor:
    """See `mdnkernels.center_focal_loss`."""
    batch, labels, height, width = logits.shape
    drawn = splat_gaussians(center, radius, label, labels, (height, width)).clamp(max=BELOW_ONE)
    counted = label >= 0 if ignore is None else (label >= 0) & ~ignore
    cell = (label.clamp(min=0) * height + center[..., 1]) * width + center[..., 0]
    ones = counted.to(drawn.dtype)
    target = drawn.flatten(1).scatter_reduce(1, cell, ones, "amax").view(batch, labels, height, width)
    return heatmap_focal_loss(logits, target, alpha, beta)
