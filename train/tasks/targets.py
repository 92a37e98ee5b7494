"""What the targets of all tasks share: centres of boxes in cells, and how far their Gaussians reach."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mdnkernels import center_focal_loss, splat_gaussians


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


class HeatmapObjects(NamedTuple):
    """B x N objects of Y heatmaps: what a network should find in each cell, without the heatmaps in memory."""

    cell: Tensor  # (B, N, 2) int64, x and y of the centre
    radius: Tensor  # (B, N) int64, of the Gaussian
    label: Tensor  # (B, N) int64, which of the heatmaps has it, -1 for padding
    ignore: Tensor | None = None  # (B, N) bool, neither to be found nor background

    def focal_loss(self, logits: Tensor) -> Tensor:
        """Return the loss of logits (B, Y, h, w), a scalar."""
        return center_focal_loss(logits, self.cell, self.radius, self.label, ignore=self.ignore)

    def count_centres(self) -> Tensor:
        """Return how many cells are centres to be found: an int64 scalar, on the device."""
        # One number for each centre, whose parts have 20 bits or more.
        key = (self.label << 40) + (self.cell[..., 1] << 20) + self.cell[..., 0]
        counted = self.label >= 0 if self.ignore is None else (self.label >= 0) & ~self.ignore
        key = torch.where(counted, key, -1).sort(1).values
        return (key[:, :1] >= 0).sum() + ((key[:, 1:] >= 0) & (key[:, 1:] != key[:, :-1])).sum()

    def draw(self, labels: int, size: tuple[int, int]) -> Tensor:
        """Return the heatmaps, (B, labels, h, w) float32: Gaussians, exactly 1 at the centres to be found alone."""
        if self.ignore is None:
            return splat_gaussians(self.cell, self.radius, self.label, labels, size)
        found, others = (
            splat_gaussians(self.cell, self.radius, torch.where(chosen, self.label, -1), labels, size)
            for chosen in (~self.ignore, self.ignore)
        )
        return torch.maximum(found, others.clamp(max=1 - 2**-24))


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
