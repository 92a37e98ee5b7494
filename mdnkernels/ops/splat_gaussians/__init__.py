"""Gaussian centre targets on the device: public function and checks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mdnkernels import backends, checks

backends.add("splat_gaussians")


def splat_gaussians(center: Tensor, radius: Tensor, label: Tensor, num_labels: int, size: Sequence[int]) -> Tensor:
    """Draw CenterNet's heatmap targets: a truncated Gaussian around each object's centre cell, combined by maximum.

    An object writes exp(-(dx^2 + dy^2) / (2 sigma^2)), sigma = (2 r + 1) / 6, into the cells of its label's map with
    |dx| <= r and |dy| <= r; the centre is exactly 1.

    Args:
        center: (B, N, 2), int64, the centre cell (x, y).
        radius: (B, N), int64, r in cells, at least 0.
        label: (B, N), int64; -1 is padding, whose center and radius are not read.
        num_labels: Y, at least 1.
        size: (H, W) in cells.

    Returns:
        (B, Y, H, W), float32, 0 where no object reaches.

    Raises:
        TypeError: a tensor is not int64, num_labels or size no ints.
        ValueError: wrong shapes or devices, num_labels or size below 1.
        IndexError: a centre outside the map, a negative radius, a label outside [-1, Y).

    Source: Law and Deng, "CornerNet", 2018; Zhou et al., "Objects as Points", 2019, section 3.
    """
    checks.tensor("label", label, (torch.int64,))
    if label.ndim != 2:
        raise ValueError(f"label must be (B, N), got shape {tuple(label.shape)}")
    checks.integer("num_labels", num_labels, 1)
    if len(size) != 2:
        raise ValueError(f"size must be (H, W), got {tuple(size)}")
    height, width = size
    checks.integer("size[0]", height, 1)
    checks.integer("size[1]", width, 1)
    center, radius = checked_objects(center, radius, label, num_labels, height, width)
    return backends.select("splat_gaussians", label)(center, radius, label, num_labels, (height, width))


def checked_objects(
    center: Tensor,
    radius: Tensor,
    label: Tensor,
    num_labels: int | torch.SymInt,
    height: int | torch.SymInt,
    width: int | torch.SymInt,
) -> tuple[Tensor, Tensor]:
    """Check objects, (B, N, 2) and (B, N), whose label is known to be such a tensor; return center and radius.

    Both are 0 where padding is, which may hold anything.
    """
    checks.tensor("center", center, (torch.int64,), label)
    checks.shape("center", center, (*label.shape, 2), "(B, N, 2) for label's B and N")
    checks.tensor("radius", radius, (torch.int64,), label)
    checks.shape("radius", radius, label.shape, "(B, N) for label's B and N")
    checks.bounds("label", label, -1, num_labels, "the number of labels; -1 is padding")
    real = label >= 0
    center, radius = torch.where(real.unsqueeze(-1), center, 0), torch.where(real, radius, 0)
    checks.bounds("center[..., 0]", center[..., 0], 0, width, "the map's width")
    checks.bounds("center[..., 1]", center[..., 1], 0, height, "the map's height")
    checks.bounds("radius", radius, 0, 2**31, "a count of cells")
    return center, radius
