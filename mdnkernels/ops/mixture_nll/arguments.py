"""The arguments that mixture_nll and mixture_posterior share: their checks, and the one form that kernels take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

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


class Observation(NamedTuple):
    """What follows from a checked call."""

    density: Density
    points: tuple[int | torch.SymInt, ...]
    """*P, or (N,) beside an index."""
    letters: str
    """What an error calls them."""


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
