"""The mixture's prediction, one component or the mean: public function and checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from mdnkernels import backends, checks
from mdnkernels.mixture.arguments import (
    SCALE_ORDERS,
    as_points,
    check_dim_scale,
    check_index,
    check_parameters,
    check_tril,
    is_interleaved,
    unflatten,
)
from mdnkernels.mixture.families import Family, family_of
from mdnkernels.mixture.layout import FIRST, Parameters, dim_of, parameters_to_op, shapes_of_op
from mdnkernels.ops.mixture_mode import eager

SELECTIONS = ("weight", "density", "mean")

backends.add("mixture_mode")


class MixtureMode(NamedTuple):
    """What `mixture_mode` predicts at each position."""

    loc: Tensor
    scale: Tensor | None
    component: Tensor
    weight: Tensor
    tril: Tensor | None = None
    variance: Tensor | None = None


def mixture_mode(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor | None = None,
    *,
    tril: Tensor | None = None,
    block_size: int | None = None,
    index: Tensor | None = None,
    dim_scale: Tensor | None = None,
    select: str = "weight",
    components: Sequence[int] | None = None,
    family: str | Family = "gaussian",
    scale_activation: str = "softplus",
    min_scale: float = 1e-3,
    scale_order: str | None = None,
    dim: int = 1,
) -> MixtureMode:
    """Predict from the mixture at every position: one component, or the mean.

    Args:
        logits: (B, M, *P), mixing logits.
        loc: (B, M*C, *P), component means, channel m*C + d.
        scale: (B, M*S, *P), raw scales, or None where no sigma is wanted.
        tril, block_size: (B, M*Q, *P) and D, the correlation, as in `mixture_nll`; needs `scale`.
        index: (B, N), int64, evaluate only at these flat positions; -1 is padding.
        dim_scale: (C,), kappa, as in `mixture_nll`: of variances, and of the bins of a discrete target.
        select: "weight", the component of largest alpha (the paper's choice); "density", of largest density at its own
            mean, alpha_m / prod_d sigma_md up to shared factors, or of largest mass for a discrete target (needs
            `scale`); "mean", the mixture's mean.
        components: the components that may be chosen, all where None: the paper's per-component tables.
        family, scale_activation, min_scale: as in `mixture_nll`.
        scale_order: as in `mixture_nll`; asked for where a variance or a mass is computed.
        dim: of the channels of what goes in and comes out, as in `mixture_nll`; (B, N, .) beside an index unless it is
            1. A parameter of size 1 in the batch or along a position serves as many as the others have there.

    Returns:
        loc (B, C, *P), the chosen component's mean, or sum_m alpha_m mu_m for "mean", in the target's units;
        scale (B, S, *P), its sigma (for "mean" sum_m alpha_m sigma_m), None without `scale`;
        component (B, *P), int64, the chosen one, for "mean" the one of largest alpha; equal scores give the lowest;
        weight (B, *P), alpha of that component among all M;
        tril (B, Q, *P), the chosen component's entries, None without `tril` and for "mean";
        variance (B, C, *P), for "mean" with `scale` alone the mixture's own, sum_m alpha_m (v_md + (mu_md - loc_d)^2)
        with the component's variance v_md, that of the family and the correlation, kappa included: infinite for
        StudentT of df <= 2, None for the discretised logistic.
        With `components`, alpha in "mean" is the softmax over the logits of these alone. With `index` each is
        (B, ., N), and padding gives 0, but -1 as component. Gradients flow to loc, scale and tril, and to logits
        through weight and "mean".

    Raises:
        TypeError, ValueError, IndexError: as in `mixture_nll`; components that are empty, repeated or not in [0, M).

    Source: Varamesh and Tuytelaars, CVPR 2020, section 3.
    """
    checks.choice("select", select, SELECTIONS)
    family = family_of(family)
    if select == "density" and scale is None:
        raise ValueError('select="density" compares densities and needs scale, got None')
    layout, given = FIRST, Parameters(logits, loc, scale, tril)
    if isinstance(logits, Tensor) and logits.ndim > 1:
        layout, given = parameters_to_op(dim_of(dim, logits), *given, index)
    options = (block_size, index, dim_scale, select, components, family, scale_activation, min_scale, scale_order)
    if layout is FIRST:
        return _mode(given, *options)
    with shapes_of_op(layout):
        mode = _mode(given, *options)

    def from_op(value: Tensor | None) -> Tensor | None:
        return None if value is None else layout.from_op(value, index is not None)

    return MixtureMode(
        layout.from_op(mode.loc, index is not None),
        from_op(mode.scale),
        layout.each_from_op(mode.component),
        layout.each_from_op(mode.weight),
        from_op(mode.tril),
        from_op(mode.variance),
    )


def _mode(
    parameters: Parameters,
    block_size: int | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    select: str,
    components: Sequence[int] | None,
    family: Family,
    scale_activation: str,
    min_scale: float,
    scale_order: str | None,
) -> MixtureMode:
    """Check and predict from parameters (B, K, *P). Raises what `mixture_mode` says."""
    logits, loc, scale, tril = parameters
    channels = check_parameters(logits, loc, scale, scale_activation, min_scale)
    if tril is not None and scale is None:
        raise ValueError("tril correlates residuals over their sigmas and needs scale, got None")
    block = check_tril(tril, block_size, logits, channels, None, family)
    check_index(index, logits)
    check_dim_scale(dim_scale, loc, channels)
    batch, count, *positions = logits.shape
    if components is not None:
        components = tuple(components)
        for number in components:
            checks.integer("components", number, 0)
        if not components or len(set(components)) < len(components) or max(components) >= count:
            raise ValueError(f"components must be distinct numbers below M = {count}, at least one, got {components}")
    run: Callable[..., tuple[Tensor, Tensor | None, Tensor, Tensor]]
    of_mass = select == "density" and not family.log_sigma
    interleaved = True
    if scale is not None and (of_mass or (select == "mean" and family.variance is not None)):
        interleaved = is_interleaved(scale_order, scale.shape[1] // count, channels)
    elif scale_order is not None:
        checks.choice("scale_order", scale_order, SCALE_ORDERS)
    given = (
        as_points(logits, index),
        as_points(loc, index),
        None if scale is None else as_points(scale, index),
    )
    options: tuple[Any, ...] = (index, select, components, scale_activation, float(min_scale))
    if of_mass:
        # Which bin holds most is no sum of logarithms of sigmas, which is what the kernels compare.
        run = partial(eager.mixture_mode, family=family, dim_scale=dim_scale, interleaved=interleaved)
    else:
        run = backends.select("mixture_mode", logits, loc, scale)
    mode_loc, mode_scale, component, weight = run(*given, *options)
    mode_tril = variance = None
    if tril is not None and select != "mean":
        mode_tril = eager.entries_of_component(as_points(tril, index), component, count, index)
    if scale is not None and select == "mean" and family.variance is not None:
        variance = eager.variance_of_mean(
            as_points(logits, index),
            as_points(loc, index),
            as_points(scale, index),
            None if tril is None else as_points(tril, index),
            index,
            dim_scale,
            components,
            family,
            scale_activation,
            min_scale,
            interleaved,
            block,
        )

    def unflattened(value: Tensor | None) -> Tensor | None:
        return None if value is None else unflatten(value, batch, positions, index)

    return MixtureMode(
        unflatten(mode_loc, batch, positions, index),
        unflattened(mode_scale),
        unflatten(component.unsqueeze(1), batch, positions, index).squeeze(1),
        unflatten(weight.unsqueeze(1), batch, positions, index).squeeze(1),
        unflattened(mode_tril),
        unflattened(variance),
    )
