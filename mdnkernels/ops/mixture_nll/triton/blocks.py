"""Correlated blocks of any size in Triton: what mixture_nll's kernel does beside pairs, which it keeps in registers.

A block of D dimensions has D (D - 1) / 2 entries of L, which are most of what is read. A row of L needs all residuals
before it: they are computed again from the caches, for registers have no addresses. The slopes go through the gradient
of loc on their way to it, each program's own part, so nothing more is allocated.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mdnkernels.mixture.triton import terms_of
from mdnkernels.ops.mixture_nll.triton.residuals import (
    channel,
    entry_of,
    inverse_kappa_of,
    is_beyond,
    observed,
    read_spread,
    residual_of,
    write_channel,
)


@triton.jit
def scale_of(d, C: tl.constexpr, S: tl.constexpr, INTERLEAVED: tl.constexpr):
    return d % S if INTERLEAVED else d // (C // S)


@triton.jit
def standardised(
    loc_at, loc_c, scale_at, scale_c, target_at, target_c, dim_scale, dim_scale_d, near, seen, d,
    T: tl.constexpr, C: tl.constexpr, S: tl.constexpr, INTERLEAVED: tl.constexpr,
    ACTIVATION: tl.constexpr, min_scale: tl.constexpr,
):  # fmt: skip
    """Return the residual of dimension d over sigma kappa, and log(sigma kappa)."""
    s = scale_of(d, C, S, INTERLEAVED)
    log_sigma, inverse, _ = read_spread(scale_at, scale_c, near, s, T, ACTIVATION, min_scale)
    inverse_kappa = inverse_kappa_of(dim_scale, dim_scale_d, d, T)
    if dim_scale is not None:
        log_sigma = log_sigma - tl.log(inverse_kappa)
    return residual_of(loc_at, loc_c, target_at, target_c, near, seen, inverse * inverse_kappa, d, T), log_sigma


@triton.jit
def whitened(
    loc_at, loc_c, scale_at, scale_c, target_at, target_c, tril_at, tril_c, dim_scale, dim_scale_d,
    near, seen, block, k,
    T: tl.constexpr, C: tl.constexpr, S: tl.constexpr, D: tl.constexpr, OWN: tl.constexpr,
    INTERLEAVED: tl.constexpr, ACTIVATION: tl.constexpr, min_scale: tl.constexpr,
):  # fmt: skip
    """Return row k of a block: w = z + L z, log(sigma kappa), and whether its own residual is beyond all density."""
    w, log_sigma = standardised(
        loc_at, loc_c, scale_at, scale_c, target_at, target_c, dim_scale, dim_scale_d, near, seen, block * D + k,
        T, C, S, INTERLEAVED, ACTIVATION, min_scale,
    )  # fmt: skip
    beyond = is_beyond(w)
    q = k * (k - 1) // 2 + (block * (D * (D - 1) // 2) if OWN else 0)
    for d in tl.range(k):
        z, _ = standardised(
            loc_at, loc_c, scale_at, scale_c, target_at, target_c, dim_scale, dim_scale_d, near, seen, block * D + d,
            T, C, S, INTERLEAVED, ACTIVATION, min_scale,
        )  # fmt: skip
        w += entry_of(tril_at, tril_c, near, seen, q + d, T) * z
    return w, log_sigma, beyond


@triton.jit
def energy_of_blocks(
    loc_at, loc_c, scale_at, scale_c, target_at, target_c, tril_at, tril_c, mask_at, mask_c, dim_scale, dim_scale_d,
    near, valid,
    T: tl.constexpr, C: tl.constexpr, S: tl.constexpr, D: tl.constexpr, OWN: tl.constexpr,
    INTERLEAVED: tl.constexpr, DIMS_IN_GROUP: tl.constexpr,
    FAMILY: tl.constexpr, family_parameter: tl.constexpr, family_constant: tl.constexpr,
    ACTIVATION: tl.constexpr, min_scale: tl.constexpr,
):  # fmt: skip
    """Return -log phi of each component."""
    energy = tl.zeros(near.shape, T)
    beyond = near & (energy != 0)
    for block in tl.range(C // D):
        seen = observed(mask_at, mask_c, near, valid, block * D, DIMS_IN_GROUP)
        for k in tl.range(D):
            w, log_sigma, far = whitened(
                loc_at, loc_c, scale_at, scale_c, target_at, target_c, tril_at, tril_c, dim_scale, dim_scale_d,
                near, seen, block, k, T, C, S, D, OWN, INTERLEAVED, ACTIVATION, min_scale,
            )  # fmt: skip
            value, _, _ = terms_of(w, 1.0, FAMILY, family_parameter)
            energy += tl.where(seen, value + (log_sigma + family_constant), 0.0)
            beyond = beyond | far
    return tl.where(beyond, float("inf"), energy)


@triton.jit
def write_slopes_of_blocks(
    share, live, stored,
    loc_at, loc_c, scale_at, scale_c, target_at, target_c, tril_at, tril_c, mask_at, mask_c, dim_scale, dim_scale_d,
    near, valid, grad_loc_at, grad_loc_c, grad_tril_at, grad_tril_c,
    T: tl.constexpr, C: tl.constexpr, S: tl.constexpr, D: tl.constexpr, OWN: tl.constexpr,
    INTERLEAVED: tl.constexpr, DIMS_IN_GROUP: tl.constexpr,
    FAMILY: tl.constexpr, family_parameter: tl.constexpr,
    ACTIVATION: tl.constexpr, min_scale: tl.constexpr,
):  # fmt: skip
    """Leave h, the derivatives of the value by z, in the place of loc's gradient, and write those of L.

    Threads of a program read what others of it wrote: hence the barriers.
    """
    for block in tl.range(C // D):
        seen = observed(mask_at, mask_c, near, valid, block * D, DIMS_IN_GROUP)
        for k in tl.range(D):
            w, _, _ = whitened(
                loc_at, loc_c, scale_at, scale_c, target_at, target_c, tril_at, tril_c, dim_scale, dim_scale_d,
                near, seen, block, k, T, C, S, D, OWN, INTERLEAVED, ACTIVATION, min_scale,
            )  # fmt: skip
            _, slope, _ = terms_of(w, 1.0, FAMILY, family_parameter)
            write_channel(grad_loc_at, grad_loc_c, block * D + k, tl.where(seen, slope, 0.0), stored)
    tl.debug_barrier()
    for k in tl.range(1, D):
        for d in tl.range(k):
            gradient = tl.zeros(near.shape, T)
            for block in tl.range(C // D):
                seen = observed(mask_at, mask_c, near, valid, block * D, DIMS_IN_GROUP)
                z, _ = standardised(
                    loc_at, loc_c, scale_at, scale_c, target_at, target_c, dim_scale, dim_scale_d,
                    near, seen, block * D + d, T, C, S, INTERLEAVED, ACTIVATION, min_scale,
                )  # fmt: skip
                slope = channel(grad_loc_at, grad_loc_c, block * D + k, stored, 0.0, T)
                product = tl.where(live, share * slope * z, 0.0)
                if OWN:
                    q = block * (D * (D - 1) // 2) + k * (k - 1) // 2 + d
                    write_channel(grad_tril_at, grad_tril_c, q, product, stored)
                else:
                    gradient += product
            if not OWN:
                write_channel(grad_tril_at, grad_tril_c, k * (k - 1) // 2 + d, gradient, stored)
    tl.debug_barrier()
    for block in tl.range(C // D):
        seen = observed(mask_at, mask_c, near, valid, block * D, DIMS_IN_GROUP)
        for d in tl.range(D):
            h = channel(grad_loc_at, grad_loc_c, block * D + d, stored, 0.0, T)
            for k in tl.range(d + 1, D):
                q = k * (k - 1) // 2 + d + (block * (D * (D - 1) // 2) if OWN else 0)
                slope = channel(grad_loc_at, grad_loc_c, block * D + k, stored, 0.0, T)
                h += entry_of(tril_at, tril_c, near, seen, q, T) * slope
            # Rows below d are read by earlier ones alone.
            write_channel(grad_loc_at, grad_loc_c, block * D + d, h, stored)
    tl.debug_barrier()
