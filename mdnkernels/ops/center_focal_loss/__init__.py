"""Penalty-reduced focal loss that draws its own targets: public function and checks."""

from __future__ import annotations

import torch
from torch import Tensor

from mdnkernels import backends, checks
from mdnkernels.ops.splat_gaussians import checked_objects

backends.add("center_focal_loss")


def center_focal_loss(
    logits: Tensor,
    center: Tensor,
    radius: Tensor,
    label: Tensor,
    *,
    ignore: Tensor | None = None,
    alpha: float = 2.0,
    beta: float = 4.0,
) -> Tensor:
    """Return the penalty-reduced focal loss of centre heatmaps, from logits and the objects themselves.

    It is `heatmap_focal_loss(logits, splat_gaussians(center, radius, label, Y, (H, W)))` to rounding, without the
    heatmap of targets in memory. With p = sigmoid(logit) and g the largest of the objects' Gaussians, in float32, it is
    the sum over all cells, over the number of distinct centre cells (1 if there are none)::

        -(1 - p)^alpha log(p)              in the centre cell of an object
        -(1 - g)^beta p^alpha log(1 - p)   elsewhere

    Args:
        logits: (B, Y, H, W).
        center: (B, N, 2), int64, the centre cell (x, y).
        radius: (B, N), int64, how many cells an object's Gaussian reaches, at least 0.
        label: (B, N), int64, which of the Y maps has the object; -1 is padding, whose center and radius are not read.
        ignore: (B, N), bool, objects that are neither to be found nor background. Their Gaussians are drawn; their
            centres are none, and with g = 1 - 2^-24 have next to no loss.
        alpha: focus on hard examples, at least 0.
        beta: how much less a cell near a centre counts, at least 0.

    Returns:
        A scalar; float32 for half-precision logits, else of their dtype. Gradients flow to logits.

    Raises:
        TypeError: a tensor is of the wrong dtype.
        ValueError: wrong shapes or devices, a map without cells or labels, alpha or beta is negative.
        IndexError: a centre outside the map, a negative radius, a label outside [-1, Y).

    Source: Law and Deng, "CornerNet", 2018, Eq. 1; Zhou et al., "Objects as Points", 2019, Eq. 1.
    """
    checks.tensor("logits", logits, checks.FLOATS)
    if logits.ndim != 4:
        raise ValueError(f"logits must be (B, Y, H, W), got shape {tuple(logits.shape)}")
    batch, labels, height, width = logits.shape
    checks.tensor("label", label, (torch.int64,), logits)
    if label.ndim != 2 or label.shape[0] != batch:
        raise ValueError(f"label must be (B, N) for logits' B = {batch}, got shape {tuple(label.shape)}")
    if labels < 1 or height < 1 or width < 1:
        raise ValueError(f"logits must have at least one label, row and column, got shape {tuple(logits.shape)}")
    center, radius = checked_objects(center, radius, label, labels, height, width)
    if ignore is not None:
        checks.tensor("ignore", ignore, (torch.bool,), logits)
        checks.shape("ignore", ignore, label.shape, "(B, N) for label's B and N")
    checks.number("alpha", alpha, 0.0)
    checks.number("beta", beta, 0.0)
    run = backends.select("center_focal_loss", logits, center, radius, label, ignore)
    loss: Tensor = run(logits, center, radius, label, ignore, float(alpha), float(beta))
    return loss
