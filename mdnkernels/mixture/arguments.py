"""What the mixture's ops have in common: their options, the checks of their arguments, and the one form of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mdnkernels import checks
from mdnkernels.mixture.families import Family

SCALE_ACTIVATIONS = ("elu", "softplus", "exp", "identity")
SCALE_ORDERS = ("blocks", "interleaved")


def check_scale_options(scale_activation: str, min_scale: float) -> None:
    """Check how raw scales become sigmas."""
    checks.choice("scale_activation", scale_activation, SCALE_ACTIVATIONS)
    checks.number("min_scale", min_scale, 0.0)


def is_interleaved(scale_order: str | None, scales: int, dims: int) -> bool:
    """Check which dimensions share a scale and return whether dimension d has scale d % S, and not d // (C // S).

    Raises ValueError for scales that do not divide dims, an unknown order, and none where the two orders differ.
    """
    if dims % scales:
        raise ValueError(f"scale has S = {scales} channels a component, but S must divide C = {dims}")
    if scale_order is None and 1 < scales < dims:
        raise ValueError(
            f"scale has S = {scales} of C = {dims} dimensions, so scale_order must say which share one: 'blocks' for "
            f"neighbours, dimension d has scale d // {dims // scales}, as a mask of G = {scales} covers them; "
            f"'interleaved' for d % {scales}"
        )
    if scale_order is not None:
        checks.choice("scale_order", scale_order, SCALE_ORDERS)
    return scale_order == "interleaved" or scales in (1, dims)


def entries_of(dims: int, block_size: int, shared: bool) -> int:
    """Return Q, how many entries of L a component has."""
    return block_size * (block_size - 1) // 2 * (1 if shared else dims // block_size)


def check_block_size(block_size: int, dims: int, family: Family) -> None:
    """Check how many neighbouring dimensions are correlated."""
    checks.integer("block_size", block_size, 1)
    if dims % block_size:
        raise ValueError(f"block_size must divide C = {dims}, got {block_size}")
    if block_size > 1 and not family.log_sigma:
        raise ValueError(f"correlated dimensions need a density, and {family} gives a mass: leave tril out")


def check_tril(
    tril: Tensor | None, block_size: int | None, logits: Tensor, dims: int, groups: int | None, family: Family
) -> int:
    """Check the correlation's entries and return D, the dimensions of a block; 1 where none are correlated.

    groups: G of a mask, which observes a block wholly or not at all.
    """
    if tril is None:
        if block_size not in (None, 1):
            raise ValueError(f"block_size={block_size} says what tril correlates, and tril is None")
        return 1
    if block_size is None:
        raise ValueError("tril needs block_size: how many neighbouring dimensions it correlates, 2 for x and y")
    check_block_size(block_size, dims, family)
    if block_size == 1:
        raise ValueError("block_size must be at least 2 beside tril: blocks of one dimension have no entries")
    checks.tensor("tril", tril, (logits.dtype,), logits)
    batch, count, *positions = logits.shape
    own, shared = (count * entries_of(dims, block_size, each) for each in (False, True))
    if tril.ndim < 2 or tril.shape[1] not in (own, shared):
        raise ValueError(
            f"tril must be (B, M*Q, *P) with M*Q = {own} channels, or {shared} that serve all blocks of "
            f"{block_size} dimensions, got shape {tuple(tril.shape)}"
        )
    checks.shape("tril", tril, (batch, tril.shape[1], *positions), "(B, M*Q, *P) for logits' B and *P")
    if groups is not None and (dims // block_size) % groups:
        raise ValueError(
            f"mask must observe a block of {block_size} dimensions wholly or not at all: its G must divide "
            f"{dims // block_size} blocks, got {groups}"
        )
    return block_size


def check_parameters(logits: Tensor, loc: Tensor, scale: Tensor | None, scale_activation: str, min_scale: float) -> int:
    """Check the mixture's parameters and return C."""
    check_scale_options(scale_activation, min_scale)
    checks.tensor("logits", logits, checks.FLOATS)
    if logits.ndim < 2 or logits.shape[1] == 0:
        raise ValueError(f"logits must be (B, M, *P) with M at least 1, got shape {tuple(logits.shape)}")
    batch, count, *positions = logits.shape
    for name, value, letter in (("loc", loc, "C"), ("scale", scale, "S")):
        if value is None:
            continue
        checks.tensor(name, value, (logits.dtype,), logits)
        if value.ndim < 2 or value.shape[1] == 0 or value.shape[1] % count:
            raise ValueError(
                f"{name} must be (B, M*{letter}, *P) with a positive multiple of logits' M = {count} channels, "
                f"got shape {tuple(value.shape)}"
            )
        checks.shape(name, value, (batch, value.shape[1], *positions), f"(B, M*{letter}, *P) for logits' B and *P")
    return loc.shape[1] // count


def check_dim_scale(dim_scale: Tensor | None, loc: Tensor, dims: int) -> None:
    """Check the factors kappa, where there are any."""
    if dim_scale is None:
        return
    checks.companion("dim_scale", dim_scale, loc)
    checks.shape("dim_scale", dim_scale, (dims,), "(C,)")
    checks.positive("dim_scale", dim_scale)
    if dim_scale.requires_grad:
        raise ValueError("dim_scale requires a gradient, but it has none: pass dim_scale.detach()")


def check_index(index: Tensor | None, logits: Tensor) -> None:
    """Check that `index`, where there is one, holds flat positions of `logits`, or -1."""
    if index is None:
        return
    checks.tensor("index", index, (torch.int64,), logits)
    if index.ndim != 2 or index.shape[0] != logits.shape[0]:
        raise ValueError(f"index must be (B, N) with B = {logits.shape[0]}, got shape {tuple(index.shape)}")
    positions = math.prod(logits.shape[2:])
    checks.bounds("index", index, -1, positions, "the positions of logits; -1 is padding")


def as_points(value: Tensor, index: Tensor | None) -> Tensor:
    """Return `value` (B, K, *P) as (B, K, P), a view wherever the strides allow.

    Rows (B, K) become the points of one map, (1, K, B), unless an index needs the batch.
    """
    if value.ndim == 2:
        return value.unsqueeze(-1) if index is not None else value.t().unsqueeze(0)
    return value.flatten(2)


def unflatten(value: Tensor, batch: int, positions: Sequence[int], index: Tensor | None) -> Tensor:
    """Undo `as_points` for a result (B, K, P); with an index it is (B, K, N) already."""
    if index is not None:
        return value
    if len(positions) == 0:
        return value.squeeze(0).t()
    return value.unflatten(2, tuple(positions))
