"""What the network should output for a batch's boxes, made on the device without a loop over objects."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mdnkernels import splat_gaussians


class DetectionTargets(NamedTuple):
    """Targets in output cells, for B images, N boxes at most in each, Y classes and h x w cells."""

    heatmap: Tensor
    """(B, Y, h, w) float32: a Gaussian at each box's centre, exactly 1 in the centre's cell."""
    index: Tensor
    """(B, N) int64: flat cell y * w + x of each box's centre, -1 for padding."""
    label: Tensor
    """(B, N) int64: class index, -1 for padding."""
    size: Tensor
    """(B, 2, N) float32: width and height, 0 for padding."""
    offset: Tensor
    """(B, 2, N) float32: x and y of the centre within its cell, in [0, 1], 0 for padding."""


def detection_targets(
    boxes: Tensor, labels: Tensor, num_classes: int, size: tuple[int, int], stride: int = 4
) -> DetectionTargets:
    """CenterNet's targets.

    boxes: (B, N, 4) float32, x1, y1, x2, y2 in input pixels, inside the input and of positive size. labels: (B, N)
    int64 class index, -1 for padding. size: (h, w) of the output. stride: input pixels per cell.

    Raises IndexError (from `splat_gaussians`) for a label outside [-1, num_classes).
    Source: Zhou et al., "Objects as Points", 2019, section 3.
    """
    height, width = size
    real = labels >= 0
    cells = torch.where(real[..., None], boxes, 0) / stride
    low, high = cells[..., :2], cells[..., 2:]
    extent = high - low
    centre = (low + high) / 2
    # A box that hugs the right or lower border can have a centre that rounds onto the border itself.
    last = torch.tensor((width - 1, height - 1), device=boxes.device)
    cell = torch.minimum(centre.long(), last)
    radius = gaussian_radius(extent[..., 0].ceil().long(), extent[..., 1].ceil().long())
    return DetectionTargets(
        heatmap=splat_gaussians(cell, radius, labels, num_classes, size),
        index=torch.where(real, cell[..., 1] * width + cell[..., 0], -1),
        label=labels,
        size=extent.transpose(1, 2),
        offset=(centre - cell).transpose(1, 2),
    )


def gaussian_radius(width: Tensor, height: Tensor) -> Tensor:
    """How far from its centre, in whole cells, a box's Gaussian reaches: int64, like width and height.

    width, height: int64 cells, any shape, at least 0. CenterNet takes the smallest of three expressions for an overlap
    of 0.7, rounded down; with p = w + h and q = w h the third is always the smallest: (-1.4 p + sqrt(1.96 p^2 +
    3.36 q)) / 2. Here r is the largest integer with 25 r^2 + 35 r p <= 21 q, the same in integers: a float32 root would
    be one cell off now and then, and differently on every device.

    These are the published code's expressions, whose denominators are 2 where the roots of the underlying quadratics
    would have 2a: the radius of a trained CenterNet, not the largest shift that keeps an overlap of 0.7.
    """
    p, q = width + height, width * height
    guess = ((-1.4 * p + (1.96 * p * p + 3.36 * q).sqrt()) / 2).long().clamp(min=0)

    def fits(radius: Tensor) -> Tensor:
        return 25 * radius * radius + 35 * radius * p <= 21 * q

    radius = guess + fits(guess + 1).long()
    return radius - (~fits(radius)).long()
