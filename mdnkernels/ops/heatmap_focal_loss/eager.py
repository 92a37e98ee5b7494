"""Penalty-reduced focal loss in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def heatmap_focal_loss(logits: Tensor, target: Tensor, alpha: float, beta: float) -> Tensor:
    """See `mdnkernels.heatmap_focal_loss`."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    logits, target = logits.to(dtype), target.to(dtype)
    log_p, log_q = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    positive = target == 1
    # p^alpha and q^alpha through their logarithms: their derivatives stay finite where p or q rounds to 0.
    at_centre = torch.exp(alpha * log_q) * log_p
    weight = (1 - target).pow(beta) if beta != 0 else 1 + 0 * target  # pow would make 1 of NaN
    elsewhere = weight * torch.exp(alpha * log_p) * log_q
    total = -torch.where(positive, at_centre, elsewhere).sum()
    return total / positive.sum().clamp(min=1).to(dtype)
