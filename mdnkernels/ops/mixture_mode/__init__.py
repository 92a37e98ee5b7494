"""The mixture's prediction, one component or the mean: public function and checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from mdnkernels import backends, checks
from mdnkernels.mixture.arguments import as_points, check_index, check_parameters, unflatten

SELECTIONS = ("weight", "density", "mean")

backends.add("mixture_mode")


class MixtureMode(NamedTuple):
    """What `mixture_mode` predicts at each position."""

    loc: Tensor
    scale: Tensor | None
    component: Tensor
    weight: Tensor


def mixture_mode(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor | None = None,
    *,
    index: Tensor | None = None,
    select: str = "weight",
    components: Sequence[int] | None = None,
    scale_activation: str = "elu",
    min_scale: float = 1.0,
) -> MixtureMode:
    """Predict from the mixture at every position: one component, or the mean.

    Args:
        logits: (B, M, *P), mixing logits.
        loc: (B, M*C, *P), component means, channel m*C + d.
        scale: (B, M*S, *P), raw scales, or None where no sigma is wanted.
        index: (B, N), int64, evaluate only at these flat positions; -1 is padding.
        select: "weight", the component of largest alpha (the paper's choice); "density", of largest density at its own
            mean, alpha_m / prod_d sigma_md up to shared factors (needs `scale`); "mean", the mixture's mean.
        components: the components that may be chosen, all where None: the paper's per-component tables.
        scale_activation, min_scale: as in `mixture_nll`.

    Returns:
        loc (B, C, *P), the chosen component's mean, or sum_m alpha_m mu_m for "mean", in the target's units;
        scale (B, S, *P), its sigma (for "mean" sum_m alpha_m sigma_m), None without `scale`;
        component (B, *P), int64, the chosen one, for "mean" the one of largest alpha; equal scores give the lowest;
        weight (B, *P), alpha of that component among all M. With `components`, alpha in "mean" is the softmax over the
        logits of these alone. With `index` each is (B, ., N), and padding gives 0, 0, -1, 0. Gradients flow to loc,
        scale, and to logits through weight and "mean".

    Raises:
        TypeError, ValueError, IndexError: as in `mixture_nll`; components that are empty, repeated or not in [0, M).

    Source: Varamesh and Tuytelaars, CVPR 2020, section 3.
    """
    checks.choice("select", select, SELECTIONS)
    if select == "density" and scale is None:
        raise ValueError('select="density" compares densities and needs scale, got None')
    check_parameters(logits, loc, scale, scale_activation, min_scale)
    check_index(index, logits)
    batch, count, *positions = logits.shape
    if components is not None:
        components = tuple(components)
        for component in components:
            checks.integer("components", component, 0)
        if not components or len(set(components)) < len(components) or max(components) >= count:
            raise ValueError(f"components must be distinct numbers below M = {count}, at least one, got {components}")
    mode_loc, mode_scale, component, weight = backends.select("mixture_mode", logits, loc, scale)(
        as_points(logits, index),
        as_points(loc, index),
        None if scale is None else as_points(scale, index),
        index,
        select,
        components,
        scale_activation,
        float(min_scale),
    )
    return MixtureMode(
        unflatten(mode_loc, batch, positions, index),
        None if mode_scale is None else unflatten(mode_scale, batch, positions, index),
        unflatten(component.unsqueeze(1), batch, positions, index).squeeze(1),
        unflatten(weight.unsqueeze(1), batch, positions, index).squeeze(1),
    )
