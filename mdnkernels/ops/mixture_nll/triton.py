"""mixture_nll in Triton: one kernel gives the loss and, where they will be wanted, its gradients.

Memory story. A program holds the M components of a block of positions as one tile, (M, block), and walks over the
dimensions; each thread moves 16 bytes of a planar channel at a time (8 where that keeps more on chip). logits, loc and
target are read once: where they fit, the standardised residuals of all dimensions stay in registers until the posterior
is known and the gradients are written, once. Where they do not fit, the block's loc and target are read a second time,
from the caches; so are, always, the few scales and the mask's bytes. A sector of memory at none of whose positions
anything is observed is not read but for its mask. With a mean that must first be counted, a small kernel reads the
mask, the index and the weight beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mdnkernels.mixture import families
from mdnkernels.mixture.triton import VALUE_OF_PULL, activate, terms_of
from mdnkernels.ops.gather_patches.triton import add_patches
from mdnkernels.ops.mixture_nll import autograd
from mdnkernels.triton.launch import COUNTERS, NAMESPACE, op, padded, strides, wrap_triton, write_total

_WARPS = 4
_COUNTED = 1024  # positions that a program counts at a time: eight masks for each thread


@triton.jit
def place(position, total, points, mask, mask_b, mask_c, mask_p, index, index_b, index_p, G: tl.constexpr):
    """Return where flat positions are: image, point, point of the maps, and whether anything is observed there."""
    batch = position // points
    point = position % points
    source = point
    anything = position < total
    if index is not None:
        source = tl.load(index + batch * index_b + point * index_p, mask=anything, other=-1)
        anything = source >= 0
        source = tl.where(anything, source, 0)
    if mask is not None:
        some = anything & (position < 0)
        for g in tl.static_range(G):
            at = mask + batch * mask_b + tl.cast(g, tl.int64) * mask_c + point * mask_p
            some = some | (tl.load(at, mask=anything, other=0) != 0)
        anything = some
    return batch, point, source, anything


@triton.jit
def observed_weight_kernel(
    mask, mask_b, mask_c, mask_p,
    weight, weight_b, weight_p,
    index, index_b, index_p,
    partial, total, points, rounds,
    G: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the weight (or count) of the positions with something observed, as partial sums, one a program."""
    first = tl.program_id(0).to(tl.int64) * rounds * BLOCK
    weights = tl.zeros((BLOCK,), tl.float64)
    for i in range(rounds):
        position = first + i * BLOCK + tl.arange(0, BLOCK)
        batch, point, _, anything = place(
            position, total, points, mask, mask_b, mask_c, mask_p, index, index_b, index_p, G
        )
        if weight is not None:
            value = tl.load(weight + batch * weight_b + point * weight_p, mask=anything, other=0.0)
            weights += value.to(tl.float64)
        else:
            weights += anything.to(tl.float64)
    tl.store(partial + tl.program_id(0), tl.sum(weights, 0))


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
def spread_of(scale_at, scale_c, near, s, T: tl.constexpr, ACTIVATION: tl.constexpr, min_scale: tl.constexpr):
    """Return scale s of each component: log sigma, 1 / sigma and d sigma / d raw."""
    raw = tl.load(scale_at + tl.cast(s, tl.int64) * scale_c, mask=near, other=1.0).to(T)
    sigma, derivative = activate(raw, ACTIVATION, min_scale)
    return tl.log(sigma), 1 / sigma, derivative


@triton.jit
def inverse_kappa_of(dim_scale, dim_scale_d, d, T: tl.constexpr):
    result = tl.full((), 1.0, T)
    if dim_scale is not None:
        result = 1 / tl.load(dim_scale + d * dim_scale_d).to(T)
    return result


@triton.jit
def residual_of(
    loc_at, loc_c, target_at, target_c, mask_at, mask_c, inverse_kappa, near, valid, inverse, d,
    T: tl.constexpr, DIMS_IN_GROUP: tl.constexpr,
):  # fmt: skip
    """Return dimension d of each component: the standardised residual, 0 where it is not observed, and where it is."""
    seen = valid
    if mask_at is not None:
        mask = tl.load(mask_at + tl.cast(d // DIMS_IN_GROUP, tl.int64) * mask_c, mask=near, other=0)
        seen = valid & (mask != 0)
    target = tl.load(target_at + tl.cast(d, tl.int64) * target_c, mask=near, other=0.0).to(T)
    loc = tl.load(loc_at + tl.cast(d, tl.int64) * loc_c, mask=near, other=0.0).to(T)
    return tl.where(seen, (target - loc) * (inverse * inverse_kappa), 0.0), seen


@triton.jit
def write_residual_gradients(
    slope, weight, grad_loc_at, grad_loc_c, grad_target_at, grad_target_c, d, stored, inside
):  # fmt: skip
    """Write the gradients of loc and target, from the slope and the share of the posterior over sigma kappa."""
    gradient = slope * weight
    if grad_loc_at is not None:
        tl.store(grad_loc_at + tl.cast(d, tl.int64) * grad_loc_c, -gradient, mask=stored)
    if grad_target_at is not None:
        over_components = tl.sum(gradient, 0, keep_dims=True)
        tl.store(grad_target_at + tl.cast(d, tl.int64) * grad_target_c, over_components, mask=inside)


@triton.jit
def mixture_nll_kernel(
    logits, logits_b, logits_c, logits_p,
    loc, loc_b, loc_c, loc_p,
    scale, scale_b, scale_c, scale_p,
    target, target_b, target_c, target_p,
    mask, mask_b, mask_c, mask_p,
    weight, weight_b, weight_p,
    index, index_b, index_p,
    dim_scale, dim_scale_d,
    observed_weight, partial, nll,
    grad_logits, grad_logits_b, grad_logits_c, grad_logits_p,
    grad_loc, grad_loc_b, grad_loc_c, grad_loc_p,
    grad_scale, grad_scale_b, grad_scale_c, grad_scale_p,
    grad_target, grad_target_b, grad_target_c, grad_target_p,
    total, points,
    M: tl.constexpr, C: tl.constexpr, S: tl.constexpr, G: tl.constexpr,
    FAMILY: tl.constexpr, family_parameter: tl.constexpr, family_constant: tl.constexpr,
    value_of_pull: tl.constexpr,
    ACTIVATION: tl.constexpr, min_scale: tl.constexpr, MEAN: tl.constexpr,
    KEEP: tl.constexpr, COUNTERS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, NEIGHBOURS: tl.constexpr,
):  # fmt: skip
    T: tl.constexpr = tl.float64 if loc.dtype.element_ty == tl.float64 else tl.float32
    DIMS_IN_GROUP: tl.constexpr = C // G

    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = position < total
    batch, point, source, anything = place(
        position, total, points, mask, mask_b, mask_c, mask_p, index, index_b, index_p, G
    )
    m = tl.arange(0, ROWS)[:, None].to(tl.int64)
    valid = (m < M) & anything
    near = valid
    if NEIGHBOURS > 1 and mask is not None:
        near = (m < M) & inside & around(anything, NEIGHBOURS, BLOCK)
    stored = (m < M) & inside

    # Components along the first axis, positions along the second. What all components share is addressed as a tile too:
    # then every load has the same layout over threads.
    loc_at = loc + (batch * loc_b + source * loc_p) + m * C * loc_c
    scale_at = scale + (batch * scale_b + source * scale_p) + m * S * scale_c
    target_at = tl.broadcast_to(target + (batch * target_b + point * target_p), (ROWS, BLOCK))
    mask_at = None
    if mask is not None:
        mask_at = tl.broadcast_to(mask + (batch * mask_b + point * mask_p), (ROWS, BLOCK))

    # The loops are unrolled where residuals are kept: registers have no addresses.
    evidence = tl.zeros((ROWS, BLOCK), T)
    kept = ()
    for s in (tl.static_range if KEEP else tl.range)(S):
        log_sigma, inverse, _ = spread_of(scale_at, scale_c, near, s, T, ACTIVATION, min_scale)
        values = tl.zeros((ROWS, BLOCK), T)
        pulls = tl.zeros((ROWS, BLOCK), T)  # their sum gives the scale's gradient
        count = tl.zeros((ROWS, BLOCK), T)
        for j in (tl.static_range if KEEP else tl.range)(C // S):
            inverse_kappa = inverse_kappa_of(dim_scale, dim_scale_d, j * S + s, T)
            z, seen = residual_of(
                loc_at, loc_c, target_at, target_c, mask_at, mask_c, inverse_kappa, near, valid, inverse,
                j * S + s, T, DIMS_IN_GROUP,
            )  # fmt: skip
            value, _, pull = terms_of(z, FAMILY, family_parameter)
            pulls += pull
            if value_of_pull == 0:
                values += value
            count += seen.to(T)
            if dim_scale is not None:
                evidence += tl.where(seen, tl.log(inverse_kappa), 0.0)
            if KEEP:
                kept += (z,)  # type: ignore[assignment]
        if value_of_pull != 0:
            values = pulls * value_of_pull
        evidence -= values + tl.where(count > 0, count * (log_sigma + family_constant), 0.0)
        if KEEP:
            kept += (pulls, count)  # type: ignore[assignment]

    logits_at = logits + (batch * logits_b + source * logits_p) + m * logits_c
    logit = tl.where(m < M, tl.load(logits_at, mask=near, other=0.0).to(T), -float("inf"))
    top = tl.max(logit, 0, keep_dims=True)
    alpha = tl.exp(logit - top)
    alphas = tl.sum(alpha, 0, keep_dims=True)
    evidence += logit - top - tl.log(alphas)
    best = tl.max(evidence, 0, keep_dims=True)
    best = tl.where(best == -float("inf"), 0.0, best)  # no density at all: the loss is inf, not inf - inf
    posterior = tl.exp(evidence - best)
    likelihood = tl.sum(posterior, 0, keep_dims=True)
    posterior = posterior / likelihood

    loss = tl.where(anything, -(best + tl.log(likelihood)), 0.0)
    factor = tl.where(anything, tl.full((), 1.0, T), 0.0)
    if weight is not None:
        at = weight + batch * weight_b + point * weight_p
        factor = tl.load(at, mask=anything, other=0.0).to(T)
        loss = tl.where(anything, loss * factor, 0.0)
    if nll is not None:
        tl.store(nll + position, loss, mask=inside)
    else:
        tl.store(partial + tl.program_id(0), tl.sum(tl.sum(loss.to(tl.float64), 1), 0))

    if grad_loc is not None or grad_target is not None:
        if MEAN:
            divisor = tl.cast(total, tl.float64)
            if observed_weight is not None:
                divisor = tl.sum(tl.load(observed_weight + tl.arange(0, COUNTERS)), 0)
                divisor = tl.where(divisor == 0, 1.0, divisor)
            factor = factor * (1 / divisor).to(T)
        share = tl.where(anything, posterior * factor, 0.0)
        grad_loc_at = None
        grad_target_at = None
        if grad_loc is not None:
            at = grad_logits + (batch * grad_logits_b + point * grad_logits_p) + m * grad_logits_c
            tl.store(at, tl.where(anything, (alpha / alphas - posterior) * factor, 0.0), mask=stored)
            grad_loc_at = grad_loc + (batch * grad_loc_b + point * grad_loc_p) + m * C * grad_loc_c
            grad_scale_at = grad_scale + (batch * grad_scale_b + point * grad_scale_p) + m * S * grad_scale_c
        if grad_target is not None:
            grad_target_at = grad_target + (batch * grad_target_b + point * grad_target_p)
        for s in (tl.static_range if KEEP else tl.range)(S):
            _, inverse, derivative = spread_of(scale_at, scale_c, near, s, T, ACTIVATION, min_scale)
            pulls = kept[(s + 1) * (C // S + 2) - 2] if KEEP else tl.zeros((ROWS, BLOCK), T)
            count = kept[(s + 1) * (C // S + 2) - 1] if KEEP else tl.zeros((ROWS, BLOCK), T)
            for j in (tl.static_range if KEEP else tl.range)(C // S):
                inverse_kappa = inverse_kappa_of(dim_scale, dim_scale_d, j * S + s, T)
                if KEEP:
                    z = kept[s * (C // S + 2) + j]
                    seen = count > 0
                else:
                    z, seen = residual_of(
                        loc_at, loc_c, target_at, target_c, mask_at, mask_c, inverse_kappa, near, valid, inverse,
                        j * S + s, T, DIMS_IN_GROUP,
                    )  # fmt: skip
                    count += seen.to(T)
                _, slope, pull = terms_of(z, FAMILY, family_parameter)
                if not KEEP:
                    pulls += pull
                write_residual_gradients(
                    slope, tl.where(seen, share * (inverse * inverse_kappa), 0.0), grad_loc_at, grad_loc_c,
                    grad_target_at, grad_target_c, j * S + s, stored, inside,
                )  # fmt: skip
            if grad_loc is not None:
                gradient = tl.where(count > 0, share * inverse * (count - pulls) * derivative, 0.0)
                tl.store(grad_scale_at + tl.cast(s, tl.int64) * grad_scale_c, gradient, mask=stored)


def _kept_words(loc: Tensor, mask: Tensor | None, family: str) -> int:
    """Return how many of a thread's 255 registers may hold what is kept from reading to writing, so that none spills.

    Masks and the 64-bit constants of double need more of the others; most of all does a family whose value is no
    multiple of its pull, where the logarithms of all unrolled dimensions are computed at once.
    """
    if family not in VALUE_OF_PULL:
        return 40
    return 160 if mask is None and loc.dtype != torch.float64 else 120


@op(
    "mixture_nll",
    "(Tensor logits, Tensor loc, Tensor scale, Tensor target, Tensor? tril, Tensor? mask, Tensor? weight, "
    "Tensor? index, Tensor? dim_scale, Tensor? assigned, str family, float family_parameter, str scale_activation, "
    "float min_scale, bool interleaved, int block_size, str assign, float temperature, float gradient_power, "
    "float loc_factor, float scale_factor, bool natural, str reduction, bool parameter_gradients, "
    "bool target_gradient) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _mixture_nll(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    tril: Tensor | None,
    mask: Tensor | None,
    weight: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    assigned: Tensor | None,
    family: str,
    family_parameter: float,
    scale_activation: str,
    min_scale: float,
    interleaved: bool,
    block_size: int,
    assign: str,
    temperature: float,
    gradient_power: float,
    loc_factor: float,
    scale_factor: float,
    natural: bool,
    reduction: str,
    parameter_gradients: bool,
    target_gradient: bool,
) -> autograd.Loss:
    if not interleaved or block_size > 1 or assign != "likelihood" or temperature != 1 or gradient_power != 0:
        raise NotImplementedError("mixture_nll: an option that this kernel does not have")
    outputs = autograd.mixture_nll_outputs(
        *(logits, loc, scale, target, tril, mask, weight, index, dim_scale, assigned),
        *(family, family_parameter, scale_activation, min_scale, interleaved, block_size),
        *(assign, temperature, gradient_power, loc_factor, scale_factor, natural),
        *(reduction, parameter_gradients, target_gradient),
    )
    loss, *gradients = outputs
    grad_logits, grad_loc, grad_scale = (value if parameter_gradients else None for value in gradients[:3])
    grad_target = gradients[3] if target_gradient else None
    batch, dims, points = target.shape
    total, components = batch * points, logits.shape[1]
    scales, groups = scale.shape[1] // components, 1 if mask is None else mask.shape[1]
    rows, wide = padded(components), index is None and loc.stride(2) == 1
    # As many neighbouring positions a thread as make 16 bytes of a planar channel, or half of them where only then the
    # residuals stay in registers; one where positions do not lie side by side: more programs then share the waiting.
    widest = 16 // max(loc.element_size(), 4) if wide else 1
    words = (dims + 2 * scales) * loss.element_size() // 4
    room = _kept_words(loc, mask, family)
    fitting = [each for each in (widest, widest // 2) if each > 0 and words * max(each, rows // 8) <= room]
    keep = (parameter_gradients or target_gradient) and len(fitting) > 0
    block = max(32 * _WARPS * (fitting[0] if keep else widest) // rows, 16)

    observed = (*(mask, *strides(mask, 3)), *(weight, *strides(weight, 2)), *(index, *strides(index, 2)))
    observed_weight = None
    if reduction == "mean" and not (mask is None and weight is None and index is None):
        observed_weight = loss.new_empty(COUNTERS, dtype=torch.float64)
        rounds = triton.cdiv(total, COUNTERS * _COUNTED)
        wrap_triton(observed_weight_kernel)[(COUNTERS,)](
            *observed, observed_weight, total, points, rounds, G=groups, BLOCK=_COUNTED
        )
    programs = triton.cdiv(total, block)
    partial = loss.new_empty(programs, dtype=torch.float64)
    if total > 0:
        wrap_triton(mixture_nll_kernel)[(programs,)](
            *(logits, *logits.stride(), loc, *loc.stride(), scale, *scale.stride(), target, *target.stride()),
            *observed,
            *(dim_scale, *strides(dim_scale, 1)),
            *(observed_weight, partial, loss if reduction == "none" else None),
            *(grad_logits, *strides(grad_logits, 3), grad_loc, *strides(grad_loc, 3)),
            *(grad_scale, *strides(grad_scale, 3), grad_target, *strides(grad_target, 3)),
            *(total, points),
            M=components,
            C=dims,
            S=scales,
            G=groups,
            FAMILY=family,
            family_parameter=family_parameter,
            family_constant=families.with_parameter(family, family_parameter).constant,
            value_of_pull=VALUE_OF_PULL.get(family, 0.0),
            ACTIVATION=scale_activation,
            min_scale=min_scale,
            MEAN=reduction == "mean",
            KEEP=keep,
            COUNTERS=COUNTERS,
            ROWS=rows,
            BLOCK=block,
            NEIGHBOURS=min(32 // loc.element_size(), block) if wide else 1,
            num_warps=_WARPS,
        )
    if reduction != "none":
        write_total(partial, observed_weight, total if reduction == "mean" else 1, loss)
    return outputs


@op("scatter_points", "(Tensor values, Tensor index, SymInt positions) -> Tensor")
def _scatter_points(values: Tensor, index: Tensor, positions: int) -> Tensor:
    """Add points as patches of one cell, on a map of one row."""
    maps = values.new_zeros(*values.shape[:2], positions)
    add_patches(values.transpose(1, 2), index, maps.unsqueeze(2), 1)
    return maps


@op(
    "mixture_posterior",
    "(Tensor logits, Tensor loc, Tensor scale, Tensor target, Tensor? tril, Tensor? mask, Tensor? index, "
    "Tensor? dim_scale, str family, float family_parameter, str scale_activation, float min_scale, bool interleaved, "
    "int block_size, float temperature) -> Tensor",
)
def _mixture_posterior(*arguments: Any) -> Tensor:
    raise NotImplementedError("mixture_posterior: an option that this kernel does not have")


autograd.register(NAMESPACE, "triton")
mixture_posterior: Callable[..., Tensor] = partial(autograd.mixture_posterior, NAMESPACE)
mixture_nll: Callable[..., Tensor] = partial(autograd.mixture_nll, NAMESPACE)
