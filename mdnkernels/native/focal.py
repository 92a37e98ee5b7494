"""heatmap_focal_loss of the native library: one call gives the loss and, where it will be wanted, its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from mdnkernels import autograd
from mdnkernels.native import library


def heatmap_focal_loss(logits: Tensor, target: Tensor, alpha: float, beta: float) -> Tensor:
    """See `mdnkernels.heatmap_focal_loss`. What does not lie in memory as the other does is copied first."""
    logits, target = autograd.in_one_order(logits, target)
    recording = torch.is_grad_enabled() and logits.requires_grad
    return torch.ops.mdnkernels.heatmap_focal_loss(logits, target, alpha, beta, recording)[0]


if library.problem is None:
    autograd.register_heatmap_focal_loss("mdnkernels", "native")
