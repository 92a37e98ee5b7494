"""The mixture's log-likelihood in plain PyTorch: the specification, and the oracle of every other backend."""

from __future__ import annotations

import torch
from torch import Tensor

from mdnkernels.mixture.eager import activate_scale, gather_points
from mdnkernels.mixture.families import Family


def mixture_nll(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    family: Family,
    scale_activation: str,
    min_scale: float,
    reduction: str,
) -> Tensor:
    """See `mdnkernels.mixture_nll`. All tensors are (B, K, P); with `index`, target, mask, weight are (B, K, N)."""
    dtype = torch.promote_types(loc.dtype, torch.float32)
    batch, dims = target.shape[:2]
    components = logits.shape[1]
    if index is not None:
        logits, loc, scale = (gather_points(maps, index) for maps in (logits, loc, scale))
        real = (index >= 0).unsqueeze(1)
        mask = real if mask is None else mask & real
    points, scales = target.shape[2], scale.shape[1] // components
    logits, loc, scale, target = (tensor.to(dtype) for tensor in (logits, loc, scale, target))

    if mask is None:
        seen = target.new_ones(()).bool().expand(batch, dims, points)
        anything = seen[:, 0]
    else:
        seen = mask.repeat_interleave(dims // mask.shape[1], dim=1)  # (B, C, P): dimension d uses mask d // (C // G)
        anything = mask.any(1)
        # What nobody observed must not reach the gradient, not even as 0 * NaN.
        logits = torch.where(anything.unsqueeze(1), logits, 0.0)
        counts = seen.view(batch, 1, dims // scales, scales, points).any(2).expand(-1, components, -1, -1).flatten(1, 2)
        scale = torch.where(counts, scale, 0.0 if scale_activation != "identity" else 1.0)

    sigma = activate_scale(scale, scale_activation, min_scale).view(batch, components, 1, scales, points)
    groups = (dims // scales, scales)  # dimension d = j * S + s uses scale s
    residual = torch.where(seen.unsqueeze(1), target.unsqueeze(1) - loc.view(batch, components, dims, points), 0.0)
    z = residual.view(batch, components, *groups, points) / sigma  # (B, M, C // S, S, P)
    seen = seen.view(batch, 1, *groups, points)
    log_sigma = torch.log(sigma)
    if dim_scale is not None:
        kappa = dim_scale.to(dtype).view(*groups, 1)
        z = z / kappa
        log_sigma = log_sigma + torch.log(kappa)
    log_density = torch.where(seen, -family.value(z) - log_sigma - family.constant, 0.0).sum((2, 3))  # (B, M, P)

    nll = -torch.logsumexp(torch.log_softmax(logits, 1) + log_density, 1)  # (B, P)
    nll = torch.where(anything, nll, 0.0)
    if weight is not None:
        weight = torch.where(anything, weight.to(dtype), 0.0)
        nll = nll * weight
    if reduction == "none":
        return nll
    total = nll.sum()
    if reduction == "sum":
        return total
    share = anything.sum().to(dtype) if weight is None else weight.sum()
    return total / torch.where(share == 0, 1.0, share)
