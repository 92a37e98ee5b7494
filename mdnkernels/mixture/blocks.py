"""Blocks of correlated dimensions with the dimensions last: w = z + L z and back."""

from __future__ import annotations

import torch
from torch import Tensor


def _rows(tril: Tensor, block_size: int) -> list[Tensor]:
    """Return the rows of L below its first, (..., blocks or 1, k) for row k, of entries (..., Q)."""
    lower = tril.unflatten(-1, (-1, block_size * (block_size - 1) // 2))
    return [lower[..., k * (k - 1) // 2 : k * (k - 1) // 2 + k] for k in range(1, block_size)]


def whitened(z: Tensor, tril: Tensor | None, block_size: int) -> Tensor:
    """Return w = z + L z of z (..., C) within blocks of `block_size` neighbours; tril: (..., Q), which z broadcasts."""
    if tril is None:
        return z
    blocks = z.unflatten(-1, (-1, block_size))
    result = [blocks[..., 0]]
    for k, row in enumerate(_rows(tril, block_size), 1):
        result.append(blocks[..., k] + (row * blocks[..., :k]).sum(-1))
    return torch.stack(result, -1).flatten(-2)


def correlated(w: Tensor, tril: Tensor | None, block_size: int) -> Tensor:
    """Return the z (..., C) of which `whitened` is w."""
    if tril is None:
        return w
    blocks = w.unflatten(-1, (-1, block_size))
    result = [blocks[..., 0]]
    for k, row in enumerate(_rows(tril, block_size), 1):
        result.append(blocks[..., k] - sum(row[..., d] * result[d] for d in range(k)))
    return torch.stack(result, -1).flatten(-2)


def factors(sigma: Tensor, tril: Tensor, block_size: int) -> Tensor:
    """Return the Cholesky factors (..., blocks, D, D) of the blocks' covariances; those of a Gaussian.

    sigma: (..., C). tril: (..., Q). They are diag(sigma) (I + L)^-1.
    """
    entries = block_size * (block_size - 1) // 2
    blocks = sigma.unflatten(-1, (-1, block_size))
    lower = tril.unflatten(-1, (-1, entries)).expand(*blocks.shape[:-1], entries)
    identity = torch.eye(block_size, dtype=sigma.dtype, device=sigma.device)
    rows, columns = torch.tril_indices(block_size, block_size, -1, device=sigma.device)
    place = torch.zeros(entries, block_size * block_size, dtype=sigma.dtype, device=sigma.device)
    place[torch.arange(entries, device=sigma.device), rows * block_size + columns] = 1
    whitening = (lower @ place).unflatten(-1, (block_size, block_size)) + identity
    inverse = torch.linalg.solve_triangular(whitening, identity, upper=False, unitriangular=True)
    return blocks.unsqueeze(-1) * inverse
