"""The mixture's mode in plain PyTorch: the specification, and the oracle of every other backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mdnkernels.mixture.eager import activate_scale, gather_points


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
