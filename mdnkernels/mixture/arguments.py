"""What the mixture's ops have in common: their options, the checks of their arguments, and the one form of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mdnkernels import checks

SCALE_ACTIVATIONS = ("elu", "softplus", "exp", "identity")


def check_scale_options(scale_activation: str, min_scale: float) -> None:
    """Check how raw scales become sigmas."""
    checks.choice("scale_activation", scale_activation, SCALE_ACTIVATIONS)
    checks.number("min_scale", min_scale, 0.0)


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
