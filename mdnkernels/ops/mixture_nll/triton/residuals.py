"""What mixture_nll's kernels in Triton read of a position's dimensions, and the gradients that they write there.

Tiles are (M, block): components along the first axis, positions along the second. What all components share is
addressed as a tile too: then every load has the same layout over threads.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mdnkernels.mixture.triton import spread_of


@triton.jit
def place(
    position, total, points,
    mask, mask_b, mask_c, mask_p, index, index_b, index_p, assigned, assigned_b, assigned_p,
    G: tl.constexpr,
):  # fmt: skip
    """Return where flat positions are: image, point, point of the maps, whether anything counts there, and what."""
    batch = position // points
    point = position % points
    source = point
    anything = position < total
    component = source
    if index is not None:
        source = tl.load(index + batch * index_b + point * index_p, mask=anything, other=-1)
        anything = source >= 0
        source = tl.where(anything, source, 0)
    if assigned is not None:
        component = tl.load(assigned + batch * assigned_b + point * assigned_p, mask=anything, other=-1)
        anything = component >= 0
    if mask is not None:
        some = anything & (position < 0)
        for g in tl.static_range(G):
            at = mask + batch * mask_b + tl.cast(g, tl.int64) * mask_c + point * mask_p
            some = some | (tl.load(at, mask=anything, other=0) != 0)
        anything = some
    return batch, point, source, anything, component


@triton.jit
def around(anything, NEIGHBOURS: tl.constexpr, BLOCK: tl.constexpr):
    """Tell whether anything is observed at a position or at those that share a sector of memory with it.

    A load masked position by position moves one element at a time. The sector is what memory moves in any case, so
    asking sector by sector reads not a byte more, and keeps loads of 16 bytes.
    """
    sectors = tl.max(tl.reshape(anything.to(tl.int32), (BLOCK // NEIGHBOURS, NEIGHBOURS)), 1, keep_dims=True)
    near = tl.reshape(tl.broadcast_to(sectors, (BLOCK // NEIGHBOURS, NEIGHBOURS)), (1, BLOCK)) != 0
    return tl.max_constancy(near, [1, NEIGHBOURS])


@triton.jit
def channel(at, stride, c, near, other, T: tl.constexpr):
    """Read channel c of each component."""
    return tl.load(at + tl.cast(c, tl.int64) * stride, mask=near, other=other).to(T)


@triton.jit
def read_weights(logits_at, near, m, T: tl.constexpr, M: tl.constexpr):
    """Return what alpha of each component is a multiple of, the sum of that, and log alpha."""
    logit = tl.where(m < M, tl.load(logits_at, mask=near, other=0.0).to(T), -float("inf"))
    top = tl.max(logit, 0, keep_dims=True)
    alpha = tl.exp(logit - top)
    alphas = tl.sum(alpha, 0, keep_dims=True)
    return alpha, alphas, logit - top - tl.log(alphas)


@triton.jit
def read_spread(
    scale_at, scale_c, near, s, T: tl.constexpr, ACTIVATION: tl.constexpr, min_scale: tl.constexpr
):  # fmt: skip
    """Return scale s of each component: log sigma, 1 / sigma and d log sigma / d raw."""
    return spread_of(channel(scale_at, scale_c, s, near, 1.0, T), ACTIVATION, min_scale)


@triton.jit
def inverse_kappa_of(dim_scale, dim_scale_d, d, T: tl.constexpr):
    result = tl.full((), 1.0, T)
    if dim_scale is not None:
        result = 1 / tl.load(dim_scale + d * dim_scale_d).to(T)
    return result


@triton.jit
def observed(mask_at, mask_c, near, valid, d, DIMS_IN_GROUP: tl.constexpr):
    """Tell where dimension d is observed."""
    seen = valid
    if mask_at is not None:
        mask = tl.load(mask_at + tl.cast(d // DIMS_IN_GROUP, tl.int64) * mask_c, mask=near, other=0)
        seen = valid & (mask != 0)
    return seen


@triton.jit
def residual_of(loc_at, loc_c, target_at, target_c, near, seen, inverse, d, T: tl.constexpr):
    """Return the standardised residual of dimension d, with `inverse` = 1 / (sigma kappa); 0 where not observed."""
    target = channel(target_at, target_c, d, near, 0.0, T)
    loc = channel(loc_at, loc_c, d, near, 0.0, T)
    return tl.where(seen, (target - loc) * inverse, 0.0)


@triton.jit
def entry_of(tril_at, tril_c, near, seen, q, T: tl.constexpr):
    """Return entry q of L; 0 where its block is not observed."""
    return tl.where(seen, channel(tril_at, tril_c, q, near, 0.0, T), 0.0)


@triton.jit
def is_beyond(z):
    """Tell where a residual is so far that its square overflows: that component's density is 0."""
    LARGEST: tl.constexpr = 1.3407807929942596e154 if z.dtype == tl.float64 else 1.8446743e19
    return tl.abs(z) > LARGEST


@triton.jit
def loc_weight(
    share, log_sigma, inverse, inverse_kappa,
    POWER: tl.constexpr, LOC_FACTOR: tl.constexpr, NATURAL: tl.constexpr,
):  # fmt: skip
    """Return what the slope is multiplied by to give loc's gradient, but for the sign."""
    if POWER == 0:
        result = share * (inverse * inverse_kappa)
    else:
        factor = LOC_FACTOR * tl.exp((POWER - 1) * log_sigma)  # sigma^power over sigma
        result = share * (factor / inverse_kappa if NATURAL else factor * inverse_kappa)  # kappa^2 over kappa
    return result


@triton.jit
def scale_gradient(
    share, log_sigma, derivative, count, pulls, written,
    LOG_SIGMA: tl.constexpr, POWER: tl.constexpr, SCALE_FACTOR: tl.constexpr, NATURAL: tl.constexpr,
):  # fmt: skip
    """Return a raw scale's gradient: derivative is d log sigma / d raw, count that of its observed dimensions."""
    result = share * ((count - pulls if LOG_SIGMA else -pulls) * derivative)
    if POWER != 0:
        result = result * (SCALE_FACTOR * tl.exp(POWER * log_sigma))
        if NATURAL:
            result = result / count
    return tl.where(written, result, 0.0)


@triton.jit
def write_channel(at, stride, c, value, where):
    tl.store(at + tl.cast(c, tl.int64) * stride, value, mask=where)


@triton.jit
def write_residual_gradients(
    slope, weight, of_loc, written, grad_loc_at, grad_loc_c, grad_target_at, grad_target_c, d, stored, inside,
):  # fmt: skip
    """Write the gradients of loc and target, 0 where not `written`.

    weight: the share of the posterior over sigma kappa, which gives the target's. of_loc: what gives loc's.
    """
    if grad_loc_at is not None:
        write_channel(grad_loc_at, grad_loc_c, d, tl.where(written, -slope * of_loc, 0.0), stored)
    if grad_target_at is not None:
        over_components = tl.sum(tl.where(written, slope * weight, 0.0), 0, keep_dims=True)
        write_channel(grad_target_at, grad_target_c, d, over_components, inside)
