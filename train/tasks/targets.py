"""What the targets of all tasks share: centres of boxes in cells, and how far their Gaussians reach."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Centres(NamedTuple):
    """The centres of B x N boxes."""

    cell: Tensor  # (B, N, 2) int64, x and y
    offset: Tensor  # (B, N, 2) of the centre within it
    extent: Tensor  # (B, N, 2) width and height in cells
    radius: Tensor  # (B, N) int64, of the Gaussian


def centres_of(boxes: Tensor, size: tuple[int, int]) -> Centres:
    """Return the centres of boxes (B, N, 4) in cells. size: (h, w) of the output."""
    low, high = boxes[..., :2], boxes[..., 2:]
    extent, centre = high - low, (low + high) / 2
    # A box that hugs the right or lower border can have a centre that rounds onto the border itself.
    x, y = centre.long().unbind(-1)
    cell = torch.stack((x.clamp(max=size[1] - 1), y.clamp(max=size[0] - 1)), -1)
    radius = gaussian_radius(extent[..., 0].ceil().long(), extent[..., 1].ceil().long())
    return Centres(cell, centre - cell, extent, radius)


def flat_cells(cell: Tensor, real: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the flat cells y * w + x of cells (..., 2), x and y; -1 where not real (...). size: (h, w)."""
    return torch.where(real, cell[..., 1] * size[1] + cell[..., 0], -1)


def gaussian_radius(width: Tensor, height: Tensor) -> Tensor:
    """Return how far from its centre, in whole cells, a box's Gaussian reaches: int64, like width and height.

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
