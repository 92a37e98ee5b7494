"""Pathwise derivatives of a mixture's draws, by implicit reparameterisation.

With F_d(x_d | x_1 .. x_{d-1}) the conditional distribution functions, F(x) of a draw x is uniform whatever the
parameters are, so dx = -(dF/dx)^-1 (dF/dphi) dphi. The component that x was drawn from has no part in it: the
derivatives are those of the mixture, mixing weights included.

Source: Graves, "Stochastic Backpropagation through Mixture Density Distributions", 2016; Figurnov, Mohamed and Mnih,
"Implicit Reparameterization Gradients", 2018.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mdnkernels.mixture.blocks import whitened
from mdnkernels.mixture.families import Family

# Numbers in a temporary tensor of backward: the samples that it looks at together.
_TOGETHER = 1 << 21


def attach(
    samples: Tensor, logits: Tensor, loc: Tensor, sigma: Tensor, tril: Tensor | None, family: Family, block_size: int
) -> Tensor:
    """Return the samples with their pathwise derivatives in the mixture's parameters, once differentiable.

    samples: (S, *batch, C), without gradient. logits: (*batch, M). loc, sigma: (*batch, M, C). tril: (*batch, M, Q).
    All of one dtype. The family has `slope`, `density` and `cdf`.
    """
    return _Pathwise.apply(samples, logits, loc, sigma, tril, family, block_size)


class _Pathwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        samples: Tensor,
        logits: Tensor,
        loc: Tensor,
        sigma: Tensor,
        tril: Tensor | None,
        family: Family,
        block_size: int,
    ) -> Tensor:
        ctx.save_for_backward(samples, logits, loc, sigma, tril)
        ctx.options = family, block_size
        return samples.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        samples, logits, loc, sigma, tril = ctx.saved_tensors
        together = max(1, _TOGETHER // max(loc.numel(), 1))
        totals: list[Tensor] | None = None
        for first in range(0, len(samples), together):
            some = slice(first, first + together)
            parts = _gradients(samples[some], gradient[some], logits, loc, sigma, tril, *ctx.options)
            sums = [part.sum(0) for part in parts]
            totals = sums if totals is None else [total + one for total, one in zip(totals, sums, strict=True)]
        if totals is None:
            totals = [torch.zeros_like(value) for value in (logits, loc, sigma, tril) if value is not None]
        return None, *totals, *[None] * (6 - len(totals))


def _gradients(
    x: Tensor,
    gradient: Tensor,
    logits: Tensor,
    loc: Tensor,
    sigma: Tensor,
    tril: Tensor | None,
    family: Family,
    block_size: int,
) -> Iterator[Tensor]:
    """Give the gradients of logits, loc, sigma and tril for each sample, (S, *batch, M, ...), of `gradient` of x.

    With v solving (dF/dx)^T v = gradient they are those of -v^T F. F_d = sum_m w_md cdf(u_md), where u is the whitened
    residual and w_md the share of component m in what came before d. F is triangular in x, so v follows from the last
    dimension to the first, while the slopes that later dimensions have by w and u add up.
    """
    z = (x.unsqueeze(-2) - loc) / sigma  # (S, *batch, M, C)
    u = whitened(z, tril, block_size)
    log_density = -family.value(u, torch.ones_like(u)) - torch.log(sigma)
    before = logits.unsqueeze(-1) + torch.cumsum(log_density, -1) - log_density
    share = torch.softmax(before, -2)
    # cdf(u_m) - F, in the tail where both are small.
    lower, upper = family.cdf(u), family.cdf(-u)
    whole_lower, whole_upper = ((share * tail).sum(-2, keepdim=True) for tail in (lower, upper))
    excess = share * torch.where(whole_lower < whole_upper, lower - whole_lower, whole_upper - upper)
    rise = share * family.density(u)
    slope = family.slope(u)
    dims = x.shape[-1]
    through_density = torch.zeros_like(
        before[..., 0]
    )  # d v^T F / d log density of a dimension, by the shares of later ones
    of_u: list[Tensor] = [through_density] * dims
    of_z: list[Tensor] = [through_density] * dims
    of_density: list[Tensor] = [through_density] * dims
    for d in reversed(range(dims)):
        of_density[d] = through_density
        later = -through_density * slope[..., d]
        in_block = d % block_size
        coupled = torch.zeros_like(later)
        for k in range(in_block + 1, block_size):
            coupled = coupled + entry(tril, d // block_size, k, in_block, block_size) * of_u[d - in_block + k]
        own = rise[..., d]
        known = ((later + coupled) / sigma[..., d]).sum(-1, keepdim=True)
        v = (gradient[..., d, None] - known) / (own / sigma[..., d]).sum(-1, keepdim=True)
        of_u[d] = v * own + later
        of_z[d] = of_u[d] + coupled
        through_density = through_density + v * excess[..., d]
    yield -through_density
    pull = torch.stack(of_z, -1) / sigma
    yield pull
    yield pull * z + torch.stack(of_density, -1) / sigma
    if tril is not None:
        yield _of_entries(torch.stack(of_u, -1), z, tril, block_size)


def entry(tril: Tensor | None, block: int, row: int, column: int, block_size: int) -> Tensor:
    """Return the entry (*batch, M) of L at a row and column of a block; tril: (*batch, M, Q)."""
    assert tril is not None
    each = block_size * (block_size - 1) // 2
    first = 0 if tril.shape[-1] == each else block * each
    return tril[..., first + row * (row - 1) // 2 + column]


def _of_entries(of_u: Tensor, z: Tensor, tril: Tensor, block_size: int) -> Tensor:
    """Return the gradient (S, *batch, M, Q) of tril: of l_kd it is -of_u_k z_d, over all blocks where they share it."""
    of_u, z = (value.unflatten(-1, (-1, block_size)) for value in (of_u, z))  # (..., blocks, D)
    rows, columns = torch.tril_indices(block_size, block_size, -1, device=z.device)
    each = -of_u[..., rows] * z[..., columns]  # (..., blocks, D (D - 1) / 2)
    return each.sum(-2) if tril.shape[-1] == len(rows) else each.flatten(-2)
