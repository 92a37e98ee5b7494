"""The kernels of mixture_nll in Triton; their memory story is told beside what launches them."""

from __future__ import annotations

import triton
import triton.language as tl

from mdnkernels.mixture.triton import loss_and_shares, terms_of
from mdnkernels.ops.mixture_nll.triton.blocks import energy_of_blocks, write_slopes_of_blocks
from mdnkernels.ops.mixture_nll.triton.residuals import (
    around,
    channel,
    entry_of,
    inverse_kappa_of,
    is_beyond,
    loc_weight,
    observed,
    place,
    read_spread,
    read_weights,
    residual_of,
    scale_gradient,
    write_channel,
    write_residual_gradients,
)
from mdnkernels.triton.launch import add_partial_sums


@triton.jit
def observed_weight_kernel(
    mask, mask_b, mask_c, mask_p,
    weight, weight_b, weight_p,
    index, index_b, index_p,
    assigned, assigned_b, assigned_p,
    partial, finished, total, points, rounds,
    G: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the weight (or count) of the positions with something observed, as partial sums, one a program.

    finished: set to 0, for the programs of the kernel that follows.
    """
    first = tl.program_id(0).to(tl.int64) * rounds * BLOCK
    weights = tl.zeros((BLOCK,), tl.float64)
    for i in range(rounds):
        position = first + i * BLOCK + tl.arange(0, BLOCK)
        batch, point, _, anything, _ = place(
            position, total, points,
            mask, mask_b, mask_c, mask_p, index, index_b, index_p, assigned, assigned_b, assigned_p, G,
        )  # fmt: skip
        if weight is not None:
            value = tl.load(weight + batch * weight_b + point * weight_p, mask=anything, other=0.0)
            weights += value.to(tl.float64)
        else:
            weights += anything.to(tl.float64)
    tl.store(partial + tl.program_id(0), tl.sum(weights, 0))
    if tl.program_id(0) == 0:
        tl.store(finished, 0)


@triton.jit
def mixture_nll_kernel(
    logits, logits_b, logits_c, logits_p,
    loc, loc_b, loc_c, loc_p,
    scale, scale_b, scale_c, scale_p,
    target, target_b, target_c, target_p,
    tril, tril_b, tril_c, tril_p,
    mask, mask_b, mask_c, mask_p,
    weight, weight_b, weight_p,
    index, index_b, index_p,
    assigned, assigned_b, assigned_p,
    dim_scale, dim_scale_d,
    temperature,
    observed_weight, partial, finished, loss, nll,
    posterior, posterior_b, posterior_c, posterior_p,
    grad_logits, grad_logits_b, grad_logits_c, grad_logits_p,
    grad_loc, grad_loc_b, grad_loc_c, grad_loc_p,
    grad_scale, grad_scale_b, grad_scale_c, grad_scale_p,
    grad_target, grad_target_b, grad_target_c, grad_target_p,
    grad_tril, grad_tril_b, grad_tril_c, grad_tril_p,
    total, points, programs,
    M: tl.constexpr, C: tl.constexpr, S: tl.constexpr, G: tl.constexpr,
    D: tl.constexpr, Q: tl.constexpr, OWN: tl.constexpr, INTERLEAVED: tl.constexpr,
    UNIT: tl.constexpr, R: tl.constexpr, FIRST: tl.constexpr, STEP: tl.constexpr,
    FAMILY: tl.constexpr, family_parameter: tl.constexpr, family_constant: tl.constexpr, LOG_SIGMA: tl.constexpr,
    value_of_pull: tl.constexpr,
    ACTIVATION: tl.constexpr, min_scale: tl.constexpr, MEAN: tl.constexpr,
    ASSIGN: tl.constexpr, TEMPERED: tl.constexpr,
    POWER: tl.constexpr, LOC_FACTOR: tl.constexpr, SCALE_FACTOR: tl.constexpr, NATURAL: tl.constexpr,
    KEEP: tl.constexpr, COUNTERS: tl.constexpr, CHUNK: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, NEIGHBOURS: tl.constexpr,
):  # fmt: skip
    """Compute the loss or the posterior, and the gradients, at a block of positions.

    The dimensions are walked in groups of R scales, of which group g has units of UNIT neighbouring dimensions that
    begin at g * FIRST + j * STEP: single dimensions of one scale, or correlated pairs of one scale or two.
    """
    T: tl.constexpr = tl.float64 if loc.dtype.element_ty == tl.float64 else tl.float32
    DIMS_IN_GROUP: tl.constexpr = C // G
    BLOCKS: tl.constexpr = D > UNIT
    UNITS: tl.constexpr = C * R // (S * UNIT)
    ENTRIES: tl.constexpr = 1 if UNIT == 2 and OWN else 0
    KEPT: tl.constexpr = UNITS * (UNIT + ENTRIES) + R + 1  # of a group: residuals and entries, pulls and the count

    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = position < total
    batch, point, source, anything, component = place(
        position, total, points,
        mask, mask_b, mask_c, mask_p, index, index_b, index_p, assigned, assigned_b, assigned_p, G,
    )  # fmt: skip
    m = tl.arange(0, ROWS)[:, None].to(tl.int64)
    valid = (m < M) & anything
    near = valid
    if NEIGHBOURS > 1 and (mask is not None or assigned is not None):
        near = (m < M) & inside & around(anything, NEIGHBOURS, BLOCK)
    stored = (m < M) & inside

    loc_at = loc + (batch * loc_b + source * loc_p) + m * C * loc_c
    scale_at = scale + (batch * scale_b + source * scale_p) + m * S * scale_c
    target_at = tl.broadcast_to(target + (batch * target_b + point * target_p), (ROWS, BLOCK))
    mask_at = None
    if mask is not None:
        mask_at = tl.broadcast_to(mask + (batch * mask_b + point * mask_p), (ROWS, BLOCK))
    if tril is not None:
        tril_at = tril + (batch * tril_b + source * tril_p) + m * Q * tril_c
        if UNIT == 2 and not OWN:
            entry = entry_of(tril_at, tril_c, near, valid, 0, T)

    # Weights that no gradient needs again are read first, and take no registers of their own.
    GRADIENTS: tl.constexpr = grad_loc is not None or grad_target is not None
    logits_at = logits + (batch * logits_b + source * logits_p) + m * logits_c
    evidence = tl.zeros((ROWS, BLOCK), T)
    if not GRADIENTS:
        alpha, alphas, evidence = read_weights(logits_at, near, m, T, M)
    # The loops are unrolled where residuals are kept: registers have no addresses.
    kept = ()
    if BLOCKS:
        evidence -= energy_of_blocks(
            loc_at, loc_c, scale_at, scale_c, target_at, target_c, tril_at, tril_c, mask_at, mask_c,
            dim_scale, dim_scale_d, near, valid, T, C, S, D, OWN, INTERLEAVED, DIMS_IN_GROUP,
            FAMILY, family_parameter, family_constant, ACTIVATION, min_scale,
        )  # fmt: skip
    else:
        if UNIT == 2:
            beyond = valid & (position < 0)
        for g in (tl.static_range if KEEP else tl.range)(S // R):
            log_sigma, inverse, _ = read_spread(scale_at, scale_c, near, g * R, T, ACTIVATION, min_scale)
            log_sigmas = log_sigma
            inverse_2 = inverse
            if R == 2:
                log_sigma, inverse_2, _ = read_spread(scale_at, scale_c, near, g * R + 1, T, ACTIVATION, min_scale)
                log_sigmas += log_sigma
            values = tl.zeros((ROWS, BLOCK), T)
            pulls = tl.zeros((ROWS, BLOCK), T)  # their sum gives the scale's gradient
            pulls_2 = tl.zeros((ROWS, BLOCK), T)  # of the group's second scale
            count = tl.zeros((ROWS, BLOCK), T)  # of each of its scales
            for j in (tl.static_range if KEEP else tl.range)(UNITS):
                d = g * FIRST + j * STEP
                seen = observed(mask_at, mask_c, near, valid, d, DIMS_IN_GROUP)
                inverse_kappa = inverse_kappa_of(dim_scale, dim_scale_d, d, T)
                z = residual_of(loc_at, loc_c, target_at, target_c, near, seen, inverse * inverse_kappa, d, T)
                value, slope, pull = terms_of(z, inverse * inverse_kappa, FAMILY, family_parameter)
                if LOG_SIGMA and dim_scale is not None:
                    evidence += tl.where(seen, tl.log(inverse_kappa), 0.0)
                if KEEP:
                    kept += (z,)  # type: ignore[assignment]
                if UNIT == 2:
                    inverse_kappa_2 = inverse_kappa_of(dim_scale, dim_scale_d, d + 1, T)
                    z_2 = residual_of(
                        loc_at, loc_c, target_at, target_c, near, seen, inverse_2 * inverse_kappa_2, d + 1, T
                    )  # fmt: skip
                    if OWN:
                        entry = entry_of(tril_at, tril_c, near, seen, d // 2, T)
                    value_2, slope_2, pull_2 = terms_of(z_2 + entry * z, 1.0, FAMILY, family_parameter)
                    value += value_2
                    if R == 2:
                        pull = z * (slope + entry * slope_2)
                        pulls_2 += z_2 * slope_2
                    else:
                        pull += pull_2  # w times slope, summed over a block, is z times h
                    beyond = beyond | is_beyond(z) | is_beyond(z_2)
                    if dim_scale is not None:
                        evidence += tl.where(seen, tl.log(inverse_kappa_2), 0.0)
                    if KEEP:
                        kept += (z_2, entry) if OWN else (z_2,)
                if value_of_pull == 0:
                    values += tl.where(seen, value, 0.0)
                    pulls += tl.where(seen, pull, 0.0)
                else:
                    pulls += pull
                    if R == 2:
                        values += value
                count += tl.where(seen, UNIT // R, 0).to(T)
            if value_of_pull != 0 and R == 1:
                values = pulls * value_of_pull
            energy = values
            if LOG_SIGMA:
                energy += tl.where(count > 0, count * (log_sigmas + R * family_constant), 0.0)
            # A density of 0 by its residuals is 0 however small sigma is.
            evidence -= tl.where(values == float("inf"), values, energy)
            if KEEP:
                kept += (pulls, pulls_2, count) if R == 2 else (pulls, count)
        if UNIT == 2:
            evidence = tl.where(beyond, -float("inf"), evidence)

    if GRADIENTS:
        alpha, alphas, log_alpha = read_weights(logits_at, near, m, T, M)
        evidence += log_alpha
    tau = None
    if TEMPERED:
        tau = tl.cast(temperature, tl.float64, bitcast=True).to(T)
    value, shares = loss_and_shares(evidence, m, component, tau, ASSIGN, TEMPERED)

    if posterior is not None:
        at = posterior + (batch * posterior_b + point * posterior_p) + m * posterior_c
        tl.store(at, tl.where(anything, shares, 0.0), mask=stored)
    else:
        value = tl.where(anything, value, 0.0)
        factor = tl.where(anything, tl.full((), 1.0, T), 0.0)
        if weight is not None:
            at = weight + batch * weight_b + point * weight_p
            factor = tl.load(at, mask=anything, other=0.0).to(T)
            value = tl.where(anything, value * factor, 0.0)
        if nll is not None:
            tl.store(nll + position, value, mask=inside)
        else:
            tl.store(partial + tl.program_id(0), tl.sum(tl.sum(value.to(tl.float64), 1), 0))

    if GRADIENTS:
        if MEAN:
            divisor = tl.cast(total, tl.float64)
            if observed_weight is not None:
                divisor = tl.sum(tl.load(observed_weight + tl.arange(0, COUNTERS)), 0)
                divisor = tl.where(divisor == 0, 1.0, divisor)
            factor = factor * (1 / divisor).to(T)
        share = tl.where(anything, shares * factor, 0.0)
        live = share != 0  # beside another, a component whose density is 0 has residuals that overflow
        grad_loc_at = None
        grad_target_at = None
        if grad_loc is not None:
            at = grad_logits + (batch * grad_logits_b + point * grad_logits_p) + m * grad_logits_c
            tl.store(at, tl.where(anything, (alpha / alphas - shares) * factor, 0.0), mask=stored)
            grad_loc_at = grad_loc + (batch * grad_loc_b + point * grad_loc_p) + m * C * grad_loc_c
            grad_scale_at = grad_scale + (batch * grad_scale_b + point * grad_scale_p) + m * S * grad_scale_c
            if tril is not None:
                grad_tril_at = grad_tril + (batch * grad_tril_b + point * grad_tril_p) + m * Q * grad_tril_c
        if grad_target is not None:
            grad_target_at = grad_target + (batch * grad_target_b + point * grad_target_p)
        if BLOCKS:
            write_slopes_of_blocks(
                share, live, stored,
                loc_at, loc_c, scale_at, scale_c, target_at, target_c, tril_at, tril_c, mask_at, mask_c,
                dim_scale, dim_scale_d, near, valid, grad_loc_at, grad_loc_c, grad_tril_at, grad_tril_c,
                T, C, S, D, OWN, INTERLEAVED, DIMS_IN_GROUP, FAMILY, family_parameter, ACTIVATION, min_scale,
            )  # fmt: skip
        grad_entry = tl.zeros((ROWS, BLOCK), T)
        for g in (tl.static_range if KEEP else tl.range)(S // R):
            log_sigma, inverse, derivative = read_spread(scale_at, scale_c, near, g * R, T, ACTIVATION, min_scale)
            log_sigma_2 = log_sigma
            inverse_2 = inverse
            if R == 2:
                log_sigma_2, inverse_2, derivative_2 = read_spread(
                    scale_at, scale_c, near, g * R + 1, T, ACTIVATION, min_scale
                )
            pulls = kept[(g + 1) * KEPT - R - 1] if KEEP else tl.zeros((ROWS, BLOCK), T)
            pulls_2 = kept[(g + 1) * KEPT - 2] if KEEP and R == 2 else tl.zeros((ROWS, BLOCK), T)
            count = kept[(g + 1) * KEPT - 1] if KEEP else tl.zeros((ROWS, BLOCK), T)
            for j in (tl.static_range if KEEP else tl.range)(UNITS):
                d = g * FIRST + j * STEP
                inverse_kappa = inverse_kappa_of(dim_scale, dim_scale_d, d, T)
                if KEEP:
                    z = kept[g * KEPT + j * (UNIT + ENTRIES)]
                    seen = count > 0
                else:
                    seen = observed(mask_at, mask_c, near, valid, d, DIMS_IN_GROUP)
                    z = residual_of(loc_at, loc_c, target_at, target_c, near, seen, inverse * inverse_kappa, d, T)
                    count += tl.where(seen, UNIT // R, 0).to(T)
                _, slope, pull = terms_of(z, inverse * inverse_kappa, FAMILY, family_parameter)
                written = seen & live
                if BLOCKS:
                    slope = channel(grad_loc_at, grad_loc_c, d, stored, 0.0, T)
                    pull = z * slope
                if UNIT == 2:
                    inverse_kappa_2 = inverse_kappa_of(dim_scale, dim_scale_d, d + 1, T)
                    if KEEP:
                        z_2 = kept[g * KEPT + j * (UNIT + ENTRIES) + 1]
                    else:
                        z_2 = residual_of(
                            loc_at, loc_c, target_at, target_c, near, seen, inverse_2 * inverse_kappa_2, d + 1, T
                        )  # fmt: skip
                    if OWN:
                        if KEEP:
                            entry = kept[g * KEPT + j * (UNIT + ENTRIES) + 2]
                        else:
                            entry = entry_of(tril_at, tril_c, near, seen, d // 2, T)
                    _, slope_2, pull_2 = terms_of(z_2 + entry * z, 1.0, FAMILY, family_parameter)
                    slope += entry * slope_2
                    if R == 2:
                        pull = z * slope
                        pull_2 = z_2 * slope_2
                    if grad_loc is not None:
                        of_entry = tl.where(written, share * (slope_2 * z), 0.0)
                        if OWN:
                            write_channel(grad_tril_at, grad_tril_c, d // 2, of_entry, stored)
                        else:
                            grad_entry += of_entry
                    write_residual_gradients(
                        slope_2, share * (inverse_2 * inverse_kappa_2),
                        loc_weight(share, log_sigma_2, inverse_2, inverse_kappa_2, POWER, LOC_FACTOR, NATURAL),
                        written, grad_loc_at, grad_loc_c, grad_target_at, grad_target_c, d + 1, stored, inside,
                    )  # fmt: skip
                if not KEEP:
                    pulls += tl.where(seen, pull, 0.0)
                    if UNIT == 2:
                        if R == 2:
                            pulls_2 += pull_2
                        else:
                            pulls += pull_2
                write_residual_gradients(
                    slope, share * (inverse * inverse_kappa),
                    loc_weight(share, log_sigma, inverse, inverse_kappa, POWER, LOC_FACTOR, NATURAL),
                    written, grad_loc_at, grad_loc_c, grad_target_at, grad_target_c, d, stored, inside,
                )  # fmt: skip
            if grad_loc is not None:
                written = (count > 0) & live
                gradient = scale_gradient(
                    share, log_sigma, derivative, count, pulls, written, LOG_SIGMA, POWER, SCALE_FACTOR, NATURAL
                )
                write_channel(grad_scale_at, grad_scale_c, g * R, gradient, stored)
                if R == 2:
                    gradient = scale_gradient(
                        share, log_sigma_2, derivative_2, count, pulls_2, written,
                        LOG_SIGMA, POWER, SCALE_FACTOR, NATURAL,
                    )  # fmt: skip
                    write_channel(grad_scale_at, grad_scale_c, g * R + 1, gradient, stored)
        if UNIT == 2 and not OWN and grad_loc is not None:
            write_channel(grad_tril_at, grad_tril_c, 0, grad_entry, stored)

    if finished is not None:
        add_partial_sums(partial, finished, programs, observed_weight, loss, COUNTERS, CHUNK)
