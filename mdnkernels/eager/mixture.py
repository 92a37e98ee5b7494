"""Mixture log-likelihood and mode in plain PyTorch: the specification, and the oracle of every other backend."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def activate_scale(raw: Tensor, scale_activation: str, min_scale: float) -> Tensor:
    """sigma from the raw scale. ELU(x) + 1 is exp(x) for x <= 0: adding 1 to expm1(x) would round small sigmas away.

    A head that begins at zero gives raw scales of exactly 0, where clamp and abs would have other derivatives.
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
    """Columns of `maps` (B, C, P) at `index` (B, N): (B, C, N). Padding (-1) reads position 0; the caller masks it."""
    return maps.gather(2, index.clamp(min=0).unsqueeze(1).expand(-1, maps.shape[1], -1))


def mixture_nll(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    family: str,
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
    if family == "gaussian":
        log_density = -0.5 * z.square() - log_sigma - 0.5 * math.log(2 * math.pi)
    else:
        log_density = -z.abs() - log_sigma - math.log(2)
    log_density = torch.where(seen, log_density, 0.0).sum((2, 3))  # (B, M, P)

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


def _of_component(values: Tensor, component: Tensor) -> Tensor:
    """The (B, K, P) of `values` (B, M, K, P) that belongs to `component` (B, P)."""
    return values.gather(1, component[:, None, None].expand(-1, -1, *values.shape[2:])).squeeze(1)


def mixture_mode(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor | None,
    index: Tensor | None,
    select: str,
    components: Sequence[int] | None,
    scale_activation: str,
    min_scale: float,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """See `mdnkernels.mixture_mode`. Here every tensor is (B, channels, P); gives loc, scale, component and weight."""
    if index is not None:
        padding = index < 0
        logits, loc = gather_points(logits, index), gather_points(loc, index)
        scale = None if scale is None else gather_points(scale, index)
    count = logits.shape[1]
    dtype = torch.promote_types(loc.dtype, torch.float32)
    alpha = torch.softmax(logits.to(dtype), 1)  # over all M: a restricted choice keeps its true weight
    means = loc.to(dtype).unflatten(1, (count, loc.shape[1] // count))  # (B, M, C, P)
    sigma = None
    if scale is not None:
        sigma = activate_scale(scale.to(dtype), scale_activation, min_scale).unflatten(
            1, (count, scale.shape[1] // count)
        )

    score = logits.to(dtype)  # alpha's order, where alpha itself may underflow
    if select == "density":
        assert sigma is not None
        # At its own mean a component's density is alpha / prod_d sigma_d, up to factors that all components share.
        repeats = means.shape[2] // sigma.shape[2]
        score = torch.log_softmax(score, 1) - repeats * torch.log(sigma).sum(2)
    if components is None:
        component = score.argmax(1)  # (B, P)
    else:
        choice = torch.tensor(sorted(components), device=score.device)
        score = score[:, choice]
        component = choice[score.argmax(1)]
    weight = alpha.gather(1, component.unsqueeze(1)).squeeze(1)

    if select == "mean":
        share = torch.softmax(score, 1).unsqueeze(2)
        if components is not None:
            means, sigma = means[:, choice], None if sigma is None else sigma[:, choice]
        mode_loc = (share * means).sum(1)
        mode_scale = None if sigma is None else (share * sigma).sum(1)
    else:
        mode_loc = _of_component(means, component)
        mode_scale = None if sigma is None else _of_component(sigma, component)
    if index is not None:
        mode_loc = mode_loc.masked_fill(padding.unsqueeze(1), 0.0)
        mode_scale = None if mode_scale is None else mode_scale.masked_fill(padding.unsqueeze(1), 0.0)
        component = component.masked_fill(padding, -1)
        weight = weight.masked_fill(padding, 0.0)
    mode_loc = mode_loc.to(loc.dtype)
    return mode_loc, None if mode_scale is None else mode_scale.to(loc.dtype), component, weight.to(loc.dtype)
