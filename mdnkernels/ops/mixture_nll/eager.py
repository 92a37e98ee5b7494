"""The mixture's log-likelihood in plain PyTorch: the specification, and the oracle of every other backend."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mdnkernels.mixture.arguments import unflatten
from mdnkernels.mixture.density import Density
from mdnkernels.mixture.eager import activate_scale, gather_points, log_sigma_of, scale_of_dimension, whiten
from mdnkernels.mixture.objective import LIKELIHOOD, Objective
from mdnkernels.ops.mixture_nll.arguments import each_in_points, each_unflattened, in_points


class _Evidence(NamedTuple):
    """What the observed dimensions say of each component, all (B, M, P), and where anything is observed, (B, P)."""

    log_alpha: Tensor
    log_density: Tensor
    anything: Tensor


def mixture_nll(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    tril: Tensor | None,
    mask: Tensor | None,
    weight: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    assigned: Tensor | None,
    density: Density,
    objective: Objective,
    reduction: str,
) -> Tensor:
    """See `mdnkernels.mixture_nll`."""
    positions = logits.shape[2:]
    logits, loc, scale, target, tril, mask = in_points(index, logits, loc, scale, target, tril, mask)  # type: ignore[assignment]
    weight, assigned = each_in_points(index, weight, assigned)
    if assigned is not None:
        taken = (assigned >= 0).unsqueeze(1)
        mask = taken if mask is None else mask & taken
    evidence = _evidence(logits, loc, scale, target, tril, mask, index, dim_scale, density, objective)
    joint, anything = evidence.log_alpha + evidence.log_density, evidence.anything
    if objective.assign == "best":
        nll = -joint.gather(1, joint.detach().argmax(1, keepdim=True)).squeeze(1)
    elif objective.assign == "given":
        assert assigned is not None
        nll = -joint.gather(1, assigned.clamp(min=0).unsqueeze(1)).squeeze(1)
    elif objective.temperature != 1:
        nll = -objective.temperature * torch.logsumexp(joint / objective.temperature, 1)
    else:
        nll = -torch.logsumexp(joint, 1)  # (B, P)
    nll = torch.where(anything, nll, 0.0)
    if weight is not None:
        weight = torch.where(anything, weight.to(nll.dtype), 0.0)
        nll = nll * weight
    if reduction == "none":
        return each_unflattened(nll, positions, index)
    total = nll.sum()
    if reduction == "sum":
        return total
    share = anything.sum().to(nll.dtype) if weight is None else weight.sum()
    return total / torch.where(share == 0, 1.0, share)


@torch.no_grad()
def mixture_posterior(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    tril: Tensor | None,
    mask: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    density: Density,
    temperature: float,
) -> Tensor:
    """See `mdnkernels.mixture_posterior`."""
    batch, _, *positions = logits.shape
    logits, loc, scale, target, tril, mask = in_points(index, logits, loc, scale, target, tril, mask)  # type: ignore[assignment]
    evidence = _evidence(logits, loc, scale, target, tril, mask, index, dim_scale, density, LIKELIHOOD)
    posterior = torch.softmax((evidence.log_alpha + evidence.log_density) / temperature, 1)
    return unflatten(torch.where(evidence.anything.unsqueeze(1), posterior, 0.0), batch, positions, index)


def _evidence(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    tril: Tensor | None,
    mask: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    density: Density,
    objective: Objective,
) -> _Evidence:
    """Return the components' log alpha and log phi, in at least float32, of tensors (B, K, P)."""
    family, block_size = density.family, density.block_size
    dtype = torch.promote_types(loc.dtype, torch.float32)
    batch, dims = target.shape[:2]
    components = logits.shape[1]
    if index is not None:
        logits, loc, scale = (gather_points(maps, index) for maps in (logits, loc, scale))
        tril = None if tril is None else gather_points(tril, index)
        real = (index >= 0).unsqueeze(1)
        mask = real if mask is None else mask & real
    points, scales = target.shape[2], scale.shape[1] // components
    logits, target = logits.to(dtype), target.to(dtype).unsqueeze(1)
    loc, scale = (value.to(dtype).unflatten(1, (components, -1)) for value in (loc, scale))

    if mask is None:
        seen = target.new_ones(()).bool().expand(batch, 1, dims, points)
        anything = seen[:, 0, 0]
    else:
        # (B, 1, C, P): dimension d uses mask d // (C // G)
        seen = mask.repeat_interleave(dims // mask.shape[1], dim=1).unsqueeze(1)
        anything = mask.any(1)
        # What nobody observed must not reach the gradient, not even as 0 * NaN.
        logits = torch.where(anything.unsqueeze(1), logits, 0.0)
    count = _count(seen, scales, density.interleaved)  # (B, 1, S, P), observed dimensions of each scale
    if mask is not None:
        scale = torch.where(count > 0, scale, density.neutral_scale)
    if objective.rescales:
        loc, scale = _rescaled(loc, scale, count, dim_scale, density, objective)

    residual = torch.where(seen, target - loc, 0.0)  # (B, M, C, P)
    # A component whose density is 0 by its residuals alone has no part in any gradient, not even as 0 * inf; nor has a
    # mass spread so wide that a bin holds nothing of it.
    with torch.no_grad():
        inverse = _inverse_sigma(scale, dim_scale, density, dims)[0]
        excluded = (residual * inverse).abs() > math.sqrt(torch.finfo(dtype).max)
        if not family.log_sigma:
            excluded = excluded | (seen & (inverse == 0))
        excluded = excluded.any(2, keepdim=True)
    residual = torch.where(excluded, 0.0, residual)
    scale = torch.where(excluded, density.neutral_scale, scale)

    inverse, log_sigma = _inverse_sigma(scale, dim_scale, density, dims)
    z = residual * inverse
    if tril is not None:
        tril = tril.to(dtype).unflatten(1, (components, -1))
        if mask is not None:
            entries = block_size * (block_size - 1) // 2
            read = seen[:, :, ::block_size].repeat_interleave(entries, 2)  # a block is observed wholly or not at all
            tril = torch.where(read if tril.shape[2] == read.shape[2] else anything[:, None, None], tril, 0.0)
        z = whiten(z, tril, block_size)
    terms = family.value(z, inverse) + family.constant
    if family.log_sigma:
        terms = terms + log_sigma
    log_density = -torch.where(seen, terms, 0.0).sum(2)
    log_density = torch.where(excluded.squeeze(2), -math.inf, log_density)
    return _Evidence(torch.log_softmax(logits, 1), log_density, anything)


def _count(seen: Tensor, scales: int, interleaved: bool) -> Tensor:
    """Return how many dimensions of each scale are observed, (B, 1, S, P) of `seen` (B, 1, C, P)."""
    if interleaved:
        return seen.unflatten(2, (-1, scales)).sum(2)
    return seen.unflatten(2, (scales, -1)).sum(3)


def _inverse_sigma(scale: Tensor, dim_scale: Tensor | None, density: Density, dims: int) -> tuple[Tensor, Tensor]:
    """Return 1 / (sigma kappa) and log(sigma kappa) of each dimension, (B, M, C, P), of raw scales (B, M, S, P)."""
    activation = density.scale_activation, density.min_scale
    log_sigma = log_sigma_of(scale, *activation)
    # Its derivative through the logarithm: that of 1 / sigma is no number where its square is none.
    here = log_sigma.detach()
    change = torch.where(here.isfinite(), log_sigma - here, 0.0)
    sigma = activate_scale(scale, *activation).detach()
    inverse = torch.where(sigma.isinf(), torch.exp(-here), 1 / sigma) * torch.exp(-change)
    inverse, log_sigma = (scale_of_dimension(value, dims, density.interleaved) for value in (inverse, log_sigma))
    if dim_scale is not None:
        kappa = dim_scale.to(scale.dtype).view(-1, 1)
        inverse, log_sigma = inverse / kappa, log_sigma + torch.log(kappa)
    return inverse, log_sigma


def _rescaled(
    loc: Tensor,
    scale: Tensor,
    count: Tensor,
    dim_scale: Tensor | None,
    density: Density,
    objective: Objective,
) -> tuple[Tensor, Tensor]:
    """Return loc and raw scales of the same values, whose gradients are multiplied by the objective's factors."""
    log_sigma = log_sigma_of(scale.detach(), density.scale_activation, density.min_scale)
    power = torch.exp(objective.power * log_sigma)
    of_loc = objective.loc_factor * scale_of_dimension(power, loc.shape[2], density.interleaved)
    of_scale = objective.scale_factor * power
    if objective.natural:
        of_scale = of_scale / count.clamp(min=1)
        if dim_scale is not None:
            of_loc = of_loc * dim_scale.to(loc.dtype).square().view(-1, 1)
    return _with_gradient_factor(loc, of_loc), _with_gradient_factor(scale, of_scale)


def _with_gradient_factor(value: Tensor, factor: Tensor) -> Tensor:
    """Return `value`, with its gradient multiplied by `factor`."""
    scaled = value * factor
    return value.detach() + (scaled - scaled.detach())
