"""The arguments that mixture_nll and mixture_posterior share: their checks, and the one form that kernels take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mdnkernels import checks
from mdnkernels.mixture.arguments import (
    as_points,
    check_dim_scale,
    check_index,
    check_parameters,
    check_tril,
    is_interleaved,
    unflatten,
)
from mdnkernels.mixture.density import Density
from mdnkernels.mixture.families import Family
from mdnkernels.mixture.layout import FIRST, Layout, dim_of, is_plain, parameters_to_op, with_channel


class Observation(NamedTuple):
    """What follows from a checked call."""

    density: Density
    points: tuple[int | torch.SymInt, ...]
    """*P, or (N,) beside an index."""
    letters: str
    """What an error calls them."""


class Arranged(NamedTuple):
    """A call's tensors as (B, K, *P), and weight and assign, where they are tensors, as (B, *P)."""

    layout: Layout
    logits: Tensor
    loc: Tensor
    scale: Tensor
    target: Tensor
    tril: Tensor | None
    mask: Tensor | None
    weight: Tensor | None
    assign: Any

    def each_from_op(self, value: Tensor) -> Tensor:
        """Return a result as the caller has its positions; a reduced one as it is."""
        return value if value.ndim == 0 else self.layout.each_from_op(value)


def arranged(
    dim: int,
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    tril: Tensor | None,
    mask: Tensor | None,
    weight: Tensor | None,
    assign: Any,
    index: Tensor | None,
) -> Arranged:
    """Return a call's tensors as views in the one order of dimensions that its checks and backends take.

    What is no tensor, or none of this call's, is left for the checks to refuse. Raises TypeError and ValueError for a
    `dim` that is none.
    """
    if not isinstance(logits, Tensor) or logits.ndim < 2 or not isinstance(loc, Tensor):
        return Arranged(FIRST, logits, loc, scale, target, tril, mask, weight, assign)
    dim = dim_of(dim, logits)
    if dim == 1 and index is None and is_plain(logits, loc, scale, target, tril, mask):
        return Arranged(FIRST, logits, loc, scale, target, tril, mask, weight, assign)
    ndim = logits.ndim if index is None else 3
    dim_of_observed = dim if index is None else min(dim, 2)
    if loc.ndim == logits.ndim and loc.shape[dim] == logits.shape[dim]:  # C = 1
        target = with_channel(target, ndim, dim_of_observed)
    mask = with_channel(mask, ndim, dim_of_observed)
    layout, parameters = parameters_to_op(dim, logits, loc, scale, tril, index, target)
    if layout is not FIRST:
        if isinstance(target, Tensor) and target.ndim == ndim:
            target = layout.to_op(target, index is not None)
        if isinstance(mask, Tensor) and mask.ndim == ndim:
            mask = layout.to_op(mask, index is not None)
        weight, assign = (
            layout.each_to_op(value) if isinstance(value, Tensor) and value.ndim == ndim - 1 else value
            for value in (weight, assign)
        )
    logits, loc, scale, tril = parameters  # type: ignore[assignment]
    return Arranged(layout, logits, loc, scale, target, tril, mask, weight, assign)


def check_observation(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    tril: Tensor | None,
    block_size: int | None,
    mask: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    family: Family,
    scale_activation: str,
    min_scale: float,
    scale_order: str | None,
) -> Observation:
    """Check a mixture and what was observed of it. Raises what `mixture_nll` says."""
    channels = check_parameters(logits, loc, scale, scale_activation, min_scale)
    checks.companion("target", target, loc)
    check_index(index, logits)
    batch, components, *positions = logits.shape
    points = tuple(positions) if index is None else (index.shape[1],)
    letters = "*P" if index is None else "N"
    checks.shape("target", target, (batch, channels, *points), f"(B, C, {letters}) for loc's C")
    interleaved = is_interleaved(scale_order, scale.shape[1] // components, channels)
    if mask is not None:
        checks.tensor("mask", mask, (torch.bool,), loc)
        if mask.ndim < 2 or mask.shape[1] == 0 or channels % mask.shape[1]:
            raise ValueError(
                f"mask must be (B, G, {letters}) with G a divisor of C = {channels}, got {tuple(mask.shape)}"
            )
        checks.shape("mask", mask, (batch, mask.shape[1], *points), f"(B, G, {letters})")
    block = check_tril(tril, block_size, logits, channels, None if mask is None else mask.shape[1], family)
    check_dim_scale(dim_scale, loc, channels)
    return Observation(Density(family, scale_activation, float(min_scale), interleaved, block), points, letters)


def in_points(index: Tensor | None, *tensors: Tensor | None) -> Iterator[Tensor | None]:
    """Give tensors (B, K, *P) as (B, K, P), and None as it is."""
    return (None if value is None else as_points(value, index) for value in tensors)


def each_in_points(index: Tensor | None, *tensors: Tensor | None) -> Iterator[Tensor | None]:
    """Give tensors of one number a position, (B, *P), as (B, P), and None as it is."""
    return (None if value is None else as_points(value.unsqueeze(1), index).squeeze(1) for value in tensors)


def each_unflattened(value: Tensor, positions: Sequence[int], index: Tensor | None) -> Tensor:
    """Undo `each_in_points` for a result (B, P)."""
    return unflatten(value.unsqueeze(1), value.shape[0], positions, index).squeeze(1)
