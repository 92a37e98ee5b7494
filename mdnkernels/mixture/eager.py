"""What the mixture's ops compute alike in plain PyTorch: sigma from raw scales, and points of maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def activate_scale(raw: Tensor, scale_activation: str, min_scale: float) -> Tensor:
    """Return sigma of the raw scale.

    ELU(x) + 1 is exp(x) for x <= 0: adding 1 to expm1(x) would round small sigmas away. A head
    that begins at zero gives raw scales of exactly 0, where clamp and abs would have other derivatives.
    """
    if scale_activation == "elu":
        sigma = torch.where(raw > 0, raw + 1, torch.exp(torch.where(raw > 0, 0.0, raw)))
    elif scale_activation == "softplus":
        # torch's softplus turns to the identity above 20, which is exact to rounding only in float32.
        sigma = -functional.logsigmoid(-raw)
    elif scale_activation == "exp":
        sigma = torch.exp(raw)
    else:
        return raw
    return sigma + min_scale


def gather_points(maps: Tensor, index: Tensor) -> Tensor:
    """Return the columns of `maps` (B, C, P) at `index` (B, N): (B, C, N).

    Padding (-1) reads position 0; the caller masks it.
    """
    return maps.gather(2, index.clamp(min=0).unsqueeze(1).expand(-1, maps.shape[1], -1))
