"""A mixture's components over some of their dimensions: whatever the others are, or given what they are.

Independent dimensions are taken or left. Within a block of correlated ones w = z + L z, so the first k dimensions of a
block are by themselves the block of the first k rows; and given z_1 .. z_k, the others are a block again, of the
remaining rows, whose means have moved by what those rows make of z_1 .. z_k. Both hold in every family. Any other order
of dimensions is brought to that one by the covariance, which is the Gaussian's alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mdnkernels.mixture.blocks import factors, whitened
from mdnkernels.mixture.correlation import tril_from_covariance
from mdnkernels.mixture.families import Family


class Components(NamedTuple):
    """The components' parameters: loc and sigma (*batch, M, C), and tril (*batch, M, Q) of blocks of block_size."""

    loc: Tensor
    sigma: Tensor
    tril: Tensor | None
    block_size: int


def log_density(value: Tensor, components: Components, family: Family) -> Tensor:
    """Return each component's log density, or mass, (*batch, M), at value (*batch, C)."""
    inverse = 1 / components.sigma
    z = whitened((value.unsqueeze(-2) - components.loc) * inverse, components.tril, components.block_size)
    terms = family.value(z, inverse) + family.constant
    return -(terms + torch.log(components.sigma) if family.log_sigma else terms).sum(-1)


def marginal(components: Components, dims: Sequence[int], family: Family) -> Components:
    """Return the components of `dims`, in that order, of which those of one block are neighbours."""
    if components.tril is None:
        return _independent(components, dims)
    return _joined([_taken(components, block, rows, family) for block, rows in _rows_by_block(components, dims)])


def conditional(components: Components, dims: Sequence[int], value: Tensor, family: Family) -> Components:
    """Return the components of the dimensions that are not in `dims`, in ascending order, given `value` (*batch, k)."""
    count = components.loc.shape[-1]
    rest = [d for d in range(count) if d not in dims]
    if components.tril is None:
        return _independent(components, rest)
    size = components.block_size
    blocks = []
    for block in range(count // size):
        known = [d for d in dims if d // size == block]
        unknown = [d for d in rest if d // size == block]
        if not unknown:
            continue
        whole = _taken(components, block, [d % size for d in (*known, *unknown)], family)
        given = value[..., [list(dims).index(d) for d in known]]
        blocks.append(_given_first(whole, given) if known else whole)
    return _joined(blocks)


def _independent(components: Components, dims: Sequence[int]) -> Components:
    return Components(components.loc[..., list(dims)], components.sigma[..., list(dims)], None, 1)


def _rows_by_block(components: Components, dims: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Return the blocks that `dims` go through and their rows in each.

    Raises ValueError where they come back to a block.
    """
    runs: list[tuple[int, list[int]]] = []
    for d in dims:
        block, row = divmod(d, components.block_size)
        if not runs or runs[-1][0] != block:
            runs.append((block, []))
        runs[-1][1].append(row)
    if len({block for block, _ in runs}) < len(runs):
        raise ValueError(f"dims must have the dimensions of a correlated block side by side, got {tuple(dims)}")
    return runs


def _entry(row: int, column: int) -> int:
    """Return the place of an entry of L among the strictly lower ones."""
    return row * (row - 1) // 2 + column


def _taken(components: Components, block: int, rows: list[int], family: Family) -> Components:
    """Return one block's components over some of its rows, in this order.

    Raises NotImplementedError where that order needs the covariance of a family that is no Gaussian.
    """
    size = components.block_size
    assert components.tril is not None
    own = slice(block * size, block * size + size)
    loc, sigma = components.loc[..., own], components.sigma[..., own]
    each = size * (size - 1) // 2
    shared = components.tril.shape[-1] == each
    tril = components.tril if shared else components.tril[..., block * each : block * each + each]
    kept = len(rows)
    if rows == list(range(kept)):
        return Components(loc[..., :kept], sigma[..., :kept], tril[..., : kept * (kept - 1) // 2], kept)
    if not family.spherical:
        raise family.refusal(f"closed form of dimensions {rows} of a block of {size}: only its first ones, in order")
    factor = factors(sigma, tril, size).squeeze(-3)[..., rows, :]
    sigma, tril = tril_from_covariance(factor @ factor.mT)
    return Components(loc[..., rows], sigma, tril, kept)


def _given_first(whole: Components, value: Tensor) -> Components:
    """Return a block's components over its last rows, given `value` (*batch, k) of its first k."""
    known = value.shape[-1]
    loc, sigma, tril, size = whole
    assert tril is not None
    z = (value.unsqueeze(-2) - loc[..., :known]) / sigma[..., :known]
    moved: list[Tensor] = []  # the z at which the remaining w are 0
    for row in range(known, size):
        those = [z[..., d] for d in range(known)] + moved
        moved.append(-torch.stack([tril[..., _entry(row, d)] * each for d, each in enumerate(those)], -1).sum(-1))
    remaining = [tril[..., _entry(row, column)] for row in range(known, size) for column in range(known, row)]
    sigma = sigma[..., known:]
    entries = torch.stack(remaining, -1) if remaining else tril[..., :0]
    return Components(loc[..., known:] + sigma * torch.stack(moved, -1), sigma, entries, size - known)


def _joined(blocks: list[Components]) -> Components:
    """Return blocks as one: of their own size where that is one size, else within one block of all dimensions."""
    locs = torch.broadcast_tensors(*(block.loc[..., :1] for block in blocks))
    batch = locs[0].shape[:-1]
    loc = torch.cat([block.loc.expand(*batch, -1) for block in blocks], -1)
    sigma = torch.cat([block.sigma.expand(*batch, -1) for block in blocks], -1)
    sizes = {block.block_size for block in blocks}
    if sizes == {1}:
        return Components(loc, sigma, None, 1)
    trils = [block.tril.expand(*batch, -1) for block in blocks if block.tril is not None]
    if len(sizes) == 1:
        return Components(loc, sigma, torch.cat(trils, -1), sizes.pop())
    rows, first = [], 0
    for block, tril in zip(blocks, trils, strict=True):
        for row in range(block.block_size):
            rows.append(tril.new_zeros(*batch, first))
            rows.append(tril[..., _entry(row, 0) : _entry(row, row)])
        first += block.block_size
    return Components(loc, sigma, torch.cat(rows, -1), first)
