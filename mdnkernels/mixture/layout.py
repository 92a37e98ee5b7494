"""Where a call's tensors have their channels, and what of the mixture serves many positions: views, never copies.

The ops take (B, K, *P). A caller's tensors may have their channels elsewhere (`dim`), a target and a mask of one
channel may leave that out, and the mixture's parameters may have size 1 where the targets have many: all of that ends
here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

Sizes = tuple[int | torch.SymInt, ...]
Given = TypeVar("Given", bound=Tensor | None)


class Layout(NamedTuple):
    """How tensors of a call become (B, K, *P), and results go back.

    dim: of the channels among the dimensions of a map, at least 1.
    dim_of_points: of the channels of what an index gives, (B, K, N) or (B, N, K).
    merged: sizes of the dimensions before `dim` that are one batch for the op, the batch among them; none where the
    batch is the caller's own.
    """

    dim: int = 1
    dim_of_points: int = 1
    merged: Sizes = ()

    def to_op(self, value: Tensor, of_points: bool = False) -> Tensor:
        """Return a tensor with channels as (B, K, *P); of_points: it is one beside an index."""
        if self.merged:
            return value.flatten(0, self.dim - 1)
        dim = self.dim_of_points if of_points else self.dim
        return value if dim == 1 else value.movedim(dim, 1)

    def each_to_op(self, value: Tensor) -> Tensor:
        """Return a tensor of one number a position as (B, *P)."""
        return value.flatten(0, self.dim - 1) if self.merged else value

    def from_op(self, value: Tensor, of_points: bool = False) -> Tensor:
        """Undo `to_op` for a result."""
        if self.merged:
            return value.unflatten(0, self.merged)
        dim = self.dim_of_points if of_points else self.dim
        return value if dim == 1 else value.movedim(1, dim)

    def each_from_op(self, value: Tensor) -> Tensor:
        """Undo `each_to_op` for a result."""
        return value.unflatten(0, self.merged) if self.merged else value


FIRST = Layout()


def check_dim(dim: object, batch: bool = True) -> None:
    """Check what can be checked of `dim` before there are tensors; batch: dimension 0 is the batch's.

    Raises TypeError and ValueError.
    """
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"dim must be an int, got {type(dim).__name__}")
    if batch and dim == 0:
        raise ValueError("dim must be the channels' dimension, got 0, which is the batch's")


def dim_of(dim: object, logits: Tensor) -> int:
    """Return `dim`, that of the channels, counted from the front of logits' dimensions.

    Raises TypeError for what is no int, ValueError for a dimension that is none or the batch's.
    """
    if type(dim) is int and dim == 1:  # in most calls
        return 1
    check_dim(dim)
    assert isinstance(dim, int)
    if not -logits.ndim < dim < logits.ndim:
        raise ValueError(
            f"dim must be the channels' among the {logits.ndim} dimensions of logits, the first of which is the batch, "
            f"got {dim}"
        )
    return dim % logits.ndim


def without(shape: Sequence[int | torch.SymInt], dim: int) -> Sizes:
    """Return the sizes of all dimensions but one."""
    return (*shape[:dim], *shape[dim + 1 :])


def with_channel(value: Given, ndim: int, dim: int) -> Given:
    """Return a target or mask of one channel, (B, *P), with that channel; everything else as it is.

    ndim: of tensors with their channels. A target or mask that has one less can have left out nothing else.
    """
    if isinstance(value, Tensor) and value.ndim == ndim - 1:
        return value.unsqueeze(dim)  # type: ignore[return-value]
    return value


def spread(value: Tensor, sizes: Sizes, dim: int) -> Tensor:
    """Return a parameter with `sizes` for all dimensions but `dim`, a view, where it has 1 in the place of others.

    What has other sizes than 1 there stays as it is, for the op to refuse by name.
    """
    own = without(value.shape, dim)
    if own == sizes or any(a != b and a != 1 for a, b in zip(own, sizes, strict=True)):
        return value
    return value.expand(*sizes[:dim], value.shape[dim], *sizes[dim:])


def common_sizes(values: Sequence[Tensor | None], dim: int) -> Sizes:
    """Return for each dimension but `dim` the first size that is not 1 among the tensors, else 1."""
    shapes = [without(value.shape, dim) for value in values if value is not None]
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*shapes, strict=True))


def is_plain(logits: Tensor, *others: object) -> bool:
    """Tell whether tensors have their channels in dimension 1 and all else as logits: most calls, told in no time."""
    ndim, batch, positions = logits.ndim, logits.shape[0], logits.shape[2:]
    for each in others:
        if each is None:
            continue
        if not isinstance(each, Tensor) or each.ndim != ndim:
            return False
        shape = each.shape
        if shape[0] != batch or shape[2:] != positions:
            return False
    return True


def collapses(value: Tensor, first: int, last: int) -> bool:
    """Tell whether dimensions first to last of `value` are one dimension to a view."""
    steps = [(value.shape[d], value.stride(d)) for d in range(first, last + 1) if value.shape[d] != 1]
    return all(outer[1] == inner[0] * inner[1] for outer, inner in pairwise(steps))


def layout_of(dim: int, loc: Tensor, indexed: bool) -> Layout:
    """Return the layout of a call whose channels are dimension `dim`, counted from the front, of `loc`.

    Positions on both sides of the channels are seldom one dimension to a view; those before them often are one with the
    batch.
    """
    if dim == 1:
        return FIRST
    merged: Sizes = ()
    if not indexed and dim < loc.ndim - 1 and not collapses(loc.movedim(dim, 1), 2, loc.ndim - 1):
        merged = tuple(loc.shape[:dim]) if collapses(loc, 0, dim - 1) else ()
    return Layout(dim, 2, merged)


class Parameters(NamedTuple):
    """A mixture's parameters as (B, K, *P)."""

    logits: Tensor
    loc: Tensor
    scale: Tensor | None
    tril: Tensor | None


def parameters_to_op(
    dim: int,
    logits: Tensor,
    loc: Tensor,
    scale: Tensor | None,
    tril: Tensor | None,
    index: Tensor | None,
    target: object = None,
) -> tuple[Layout, Parameters]:
    """Return the layout of a call, and its parameters for the op; what is no mixture is left for the op to refuse.

    A parameter of size 1 in the batch or along a position serves as many as the target has there; beside an index, or
    without a target, as many as the other parameters and the index have.

    dim: of the channels, counted from the front. target: with all of its dimensions, or anything else.
    """
    given = Parameters(logits, loc, scale, tril)
    if not all(value is None or (isinstance(value, Tensor) and value.ndim == logits.ndim > 1) for value in given):
        return FIRST, given
    if index is None and isinstance(target, Tensor) and target.ndim == logits.ndim:
        sizes = without(target.shape, dim)
    else:
        sizes = common_sizes(given, dim)
        if isinstance(index, Tensor) and index.ndim == 2 and sizes[0] == 1:
            sizes = (index.shape[0], *sizes[1:])
    given = Parameters(*(None if value is None else spread(value, sizes, dim) for value in given))  # type: ignore[arg-type]
    layout = layout_of(dim, given.loc, index is not None)
    if layout is FIRST:
        return layout, given
    return layout, Parameters(*(None if value is None else layout.to_op(value) for value in given))  # type: ignore[arg-type]


@contextmanager
def shapes_of_op(layout: Layout) -> Iterator[None]:
    """Say in a ValueError of the op that it speaks of (B, K, *P), where the caller has other shapes."""
    try:
        yield
    except ValueError as error:
        if layout is FIRST:
            raise
        raise ValueError(f"{error}; shapes are said with the channels of dim={layout.dim} in dimension 1") from error
