"""What the network should output for a batch's boxes or people, made on the device without a loop over objects."""

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
    real = labels >= 0
    centres = _centres(torch.where(real[..., None], boxes, 0) / stride, size)
    return DetectionTargets(
        heatmap=splat_gaussians(centres.cell, centres.radius, labels, num_classes, size),
        index=_flat(centres.cell, real, size),
        label=labels,
        size=centres.extent.transpose(1, 2),
        offset=centres.offset.transpose(1, 2),
    )


class PoseTargets(NamedTuple):
    """Targets in output cells, for B images, N people at most in each, J keypoints and h x w cells."""

    heatmap: Tensor
    """(B, 1, h, w) float32: a Gaussian at each person's centre; in its cell 1, or `UNCOUNTED` without keypoints."""
    index: Tensor
    """(B, N) int64: flat cell of each person's centre, -1 for padding and for people without keypoints."""
    size: Tensor
    """(B, 2, N) float32: width and height of the box, 0 for padding."""
    offset: Tensor
    """(B, 2, N) float32: x and y of the centre within its cell, 0 for padding."""
    keypoints: Tensor
    """(B, 2J, N) float32: x and y in turn, from the centre's cell's corner; 0 where not observed."""
    observed: Tensor
    """(B, J, N) bool: labelled, hidden or not, and inside the input."""
    keypoint_heatmap: Tensor
    """(B, J, h, w) float32: a Gaussian at each observed keypoint, of the person's radius."""
    keypoint_index: Tensor
    """(B, N * J) int64: flat cell of each keypoint, -1 where not observed."""
    keypoint_offset: Tensor
    """(B, 2, N * J) float32: x and y within that cell, 0 where not observed."""


# The focal loss counts exactly 1 as a centre, and weighs any other cell by (1 - target)^4: this one by nothing.
UNCOUNTED = 0.9999


def pose_targets(
    boxes: Tensor, labels: Tensor, keypoints: Tensor, size: tuple[int, int], stride: int = 4
) -> PoseTargets:
    """CenterNet's targets for people.

    boxes, labels, size, stride: as in `detection_targets`, with the one class 0. keypoints: (B, N, J, 3) float32, x and
    y in input pixels, and 0 where not labelled. Someone of whom nothing is labelled is neither a centre to find nor
    background: the centre's cell is taken out of the focal loss and the Gaussian around it lowers its neighbours'
    weight, as CenterNet means to (its code then draws a whole Gaussian over it). A keypoint outside the input is not
    observed, and stays out of everything.
    Source: Zhou et al., "Objects as Points", 2019, section 4.2, and its code.
    """
    height, width = size
    joints = keypoints.shape[2]
    real = labels >= 0
    centres = _centres(torch.where(real[..., None], boxes, 0) / stride, size)
    labelled = (keypoints[..., 2] > 0) & real[..., None]  # (B, N, J)
    known = labelled.any(2)
    counted = splat_gaussians(centres.cell, centres.radius, torch.where(known, labels, -1), 1, size)
    uncounted = splat_gaussians(centres.cell, centres.radius, torch.where(known, -1, labels), 1, size)

    points = keypoints[..., :2] / stride
    limit = points.new_tensor((width, height))
    observed = labelled & (points >= 0).all(3) & (points < limit).all(3)
    points = torch.where(observed[..., None], points, 0)
    cell = points.long()
    joint = torch.arange(joints, device=boxes.device).expand_as(observed)
    from_centre = torch.where(observed[..., None], points - centres.cell[:, :, None], 0)
    return PoseTargets(
        heatmap=torch.maximum(counted, uncounted.clamp(max=UNCOUNTED)),
        index=_flat(centres.cell, known, size),
        size=centres.extent.transpose(1, 2),
        offset=centres.offset.transpose(1, 2),
        keypoints=from_centre.flatten(2).transpose(1, 2),
        observed=observed.transpose(1, 2),
        keypoint_heatmap=splat_gaussians(
            cell.flatten(1, 2),
            centres.radius[:, :, None].expand(-1, -1, joints).flatten(1),
            torch.where(observed, joint, -1).flatten(1),
            joints,
            size,
        ),
        keypoint_index=_flat(cell, observed, size).flatten(1),
        keypoint_offset=(points - cell).flatten(1, 2).transpose(1, 2),
    )


class _Centres(NamedTuple):
    cell: Tensor  # (B, N, 2) int64, x and y
    offset: Tensor  # (B, N, 2) of the centre within it
    extent: Tensor  # (B, N, 2) width and height in cells
    radius: Tensor  # (B, N) int64, of the Gaussian


def _centres(boxes: Tensor, size: tuple[int, int]) -> _Centres:
    """Of boxes (B, N, 4) in cells."""
    low, high = boxes[..., :2], boxes[..., 2:]
    extent, centre = high - low, (low + high) / 2
    # A box that hugs the right or lower border can have a centre that rounds onto the border itself.
    last = torch.tensor((size[1] - 1, size[0] - 1), device=boxes.device)
    cell = torch.minimum(centre.long(), last)
    radius = gaussian_radius(extent[..., 0].ceil().long(), extent[..., 1].ceil().long())
    return _Centres(cell, centre - cell, extent, radius)


def _flat(cell: Tensor, real: Tensor, size: tuple[int, int]) -> Tensor:
    """Flat cells of (..., 2) x and y, -1 where not real (...)."""
    return torch.where(real, cell[..., 1] * size[1] + cell[..., 0], -1)


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
