"""The mixture's mode in plain PyTorch: the specification, and the oracle of every other backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mdnkernels.mixture.eager import activate_scale, gather_points, scale_of_dimension, variance_of_white
from mdnkernels.mixture.families import Family


def _of_component(values: Tensor, component: Tensor) -> Tensor:
    """Return the (B, K, P) of `values` (B, M, K, P) that belongs to `component` (B, P)."""
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
    family: Family | None = None,
    dim_scale: Tensor | None = None,
    interleaved: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """See `mdnkernels.mixture_mode`. Here every tensor is (B, channels, P); gives loc, scale, component and weight.

    family, dim_scale, interleaved: of a discrete target, whose masses "density" compares.
    """
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
        if family is None:
            own = repeats * torch.log(sigma).sum(2)
        else:
            inverse = 1 / scale_of_dimension(sigma, means.shape[2], interleaved)
            inverse = inverse if dim_scale is None else inverse / dim_scale.to(dtype).view(-1, 1)
            own = family.value(torch.zeros_like(inverse), inverse).sum(2)
        score = torch.log_softmax(score, 1) - own
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


def entries_of_component(tril: Tensor, component: Tensor, count: int, index: Tensor | None) -> Tensor:
    """Return the entries (B, Q, P) of `tril` (B, M*Q, P) that belong to `component` (B, P); 0 at padding."""
    if index is not None:
        tril = gather_points(tril, index)
    entries = _of_component(tril.unflatten(1, (count, -1)), component.clamp(min=0))
    return entries if index is None else entries.masked_fill((index < 0).unsqueeze(1), 0.0)


def variance_of_mean(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    tril: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    components: Sequence[int] | None,
    family: Family,
    scale_activation: str,
    min_scale: float,
    interleaved: bool,
    block_size: int,
) -> Tensor:
    """Return the variance (B, C, P) of the mixture about its mean, by the law of total variance."""
    assert family.variance is not None
    dtype, count = torch.promote_types(loc.dtype, torch.float32), logits.shape[1]
    chosen = range(count) if components is None else components

    def of_chosen(value: Tensor) -> Tensor:
        value = value if index is None else gather_points(value, index)
        each = value.to(dtype).unflatten(1, (count, -1))
        # One by one: a list of components as an index would be copied to a device, which waits.
        return each if components is None else torch.stack([each[:, component] for component in chosen], 1)

    means = of_chosen(loc)  # (B, M, C, P)
    # Not by torch.softmax, whose bits depend on how many threads it takes.
    odds = torch.exp(of_chosen(logits) - of_chosen(logits).detach().amax(1, keepdim=True))  # (B, M, 1, P)
    share = odds / odds.sum(1, keepdim=True)
    sigma = scale_of_dimension(
        activate_scale(of_chosen(scale), scale_activation, min_scale), means.shape[2], interleaved
    )
    if dim_scale is not None:
        sigma = sigma * dim_scale.to(dtype).view(-1, 1)
    own = family.variance * sigma.square()
    if tril is not None:
        own = (own.unflatten(2, (-1, block_size)) * variance_of_white(of_chosen(tril), block_size)).flatten(2, 3)
    mean = (share * means).sum(1, keepdim=True)
    variance = (share * (own + (means - mean).square())).sum(1)
    if index is not None:
        variance = variance.masked_fill((index < 0).unsqueeze(1), 0.0)
    return variance.to(loc.dtype)
