"""What the mixture's ops compute alike in plain PyTorch: sigma from raw scales, and points of maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def activate_scale(raw: Tensor, scale_activation: str, min_scale: float) -> Tensor:
    """Return sigma of the raw scale.

    ELU(x) + 1 is exp(x) for x <= 0: adding 1 to expm1(x) would round small sigmas away. A head
    that begins at zero gives raw scales of exactly 0, where clamp and abs would have other derivatives.
    """
    if scale_activation == "elu":
        sigma = torch.where(raw > 0, raw + 1, torch.exp(torch.where(raw > 0, 0.0, raw)))
    elif scale_activation == "softplus":
        # torch's softplus turns to the identity above 20, which is exact to rounding only in float32.
        sigma = -functional.logsigmoid(-raw)
    elif scale_activation == "exp":
        sigma = torch.exp(raw)
    else:
        return raw
    return sigma + min_scale


def log_sigma_of(raw: Tensor, scale_activation: str, min_scale: float) -> Tensor:
    """Return log sigma of the raw scale.

    Under "exp" a sigma of e^89 overflows in float32, and so does its slope; its logarithm is 89, with a slope of 1.
    """
    if scale_activation != "exp":
        return torch.log(activate_scale(raw, scale_activation, min_scale))
    # log(e^raw + min_scale), with the larger of the two taken out.
    if min_scale == 0:
        return raw
    return torch.logaddexp(raw, raw.new_tensor(min_scale).log())


def scale_of_dimension(values: Tensor, dims: int, interleaved: bool) -> Tensor:
    """Return what each of `dims` dimensions has of the scales (..., S, P), as (..., C, P): d % S, or d // (C // S)."""
    scales = values.shape[-2]
    if scales == dims:
        return values
    if interleaved:
        return values.unsqueeze(-3).expand(*values.shape[:-2], dims // scales, scales, values.shape[-1]).flatten(-3, -2)
    return values.unsqueeze(-2).expand(*values.shape[:-1], dims // scales, values.shape[-1]).flatten(-3, -2)


def whiten(z: Tensor, tril: Tensor, block_size: int) -> Tensor:
    """Return w = z + L z within blocks of `block_size` neighbours of z (B, M, C, P).

    tril: (B, M, Q, P), the strictly lower entries of L row by row, block after block or shared by all blocks.
    """
    blocks = z.unflatten(2, (-1, block_size))  # (B, M, C / D, D, P)
    lower = tril.unflatten(2, (-1, block_size * (block_size - 1) // 2))  # one block of entries where they are shared
    rows = [blocks[:, :, :, 0]]
    for k in range(1, block_size):
        first = k * (k - 1) // 2
        rows.append(blocks[:, :, :, k] + (lower[:, :, :, first : first + k] * blocks[:, :, :, :k]).sum(3))
    return torch.stack(rows, 3).flatten(2, 3)


def variance_of_white(tril: Tensor, block_size: int) -> Tensor:
    """Return the variances that z = (I + L)^-1 w has where those of w are 1, (B, M, C / D or 1, D, P).

    tril: as in `whiten`.
    """
    lower = tril.unflatten(2, (-1, block_size * (block_size - 1) // 2))
    one = torch.ones_like(lower[:, :, :, 0])
    rows: list[Tensor] = []  # of (I + L)^-1: (B, M, blocks, columns, P)
    for k in range(block_size):
        entries = lower[:, :, :, k * (k - 1) // 2 : k * (k - 1) // 2 + k]
        row = torch.zeros_like(one).unsqueeze(3).expand(*one.shape[:3], block_size, one.shape[3]).clone()
        for d in range(k):
            row = row - entries[:, :, :, d : d + 1] * rows[d]
        row = row + torch.nn.functional.one_hot(torch.tensor(k, device=tril.device), block_size)[:, None]
        rows.append(row)
    return torch.stack([row.square().sum(3) for row in rows], 3)


def gather_points(maps: Tensor, index: Tensor) -> Tensor:
    """Return the columns of `maps` (B, C, P) at `index` (B, N): (B, C, N).

    Padding (-1) reads position 0, of maps without any 0; the caller masks it.
    """
    if maps.shape[2] == 0:
        return maps.new_zeros(*maps.shape[:2], index.shape[1])
    return maps.gather(2, index.clamp(min=0).unsqueeze(1).expand(-1, maps.shape[1], -1))
