"""mixture_nll in Triton: one kernel gives the loss and, where they will be wanted, its gradients.

Memory story. A program holds the M components of a block of positions as one tile, (M, block), and walks over the
dimensions; each thread moves 16 bytes of a planar channel at a time. logits, loc, scale, target and mask are read once;
where they fit, the standardised residuals of all dimensions stay in registers until the posterior is known and the
gradients are written, once. Where they do not, the block's loc and target are read a second time, from the caches.
Positions with nothing observed read their mask alone. With a mean that must first be counted, a small kernel reads the
mask, the index and the weight beforehand.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mdnkernels import autograd
from mdnkernels.triton.functions import activate
from mdnkernels.triton.launch import COUNTERS, NAMESPACE, op, padded, strides, wrap_triton, write_total
from mdnkernels.triton.patches import add_patches

_WARPS = 4
_KEPT_REGISTERS = 176  # of the 255 that a thread can have: what the residuals and scales of a block may fill


@triton.jit
def place(position, total, points, mask, mask_b, mask_c, mask_p, index, index_b, index_p, G: tl.constexpr):
    """Where flat positions are: image, point, point of the maps, and whether anything is observed there."""
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
    """The weight (or count) of the positions with something observed, as partial sums, one a program."""
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
def spread_of(scale_at, valid, scale_c, s, T: tl.constexpr, ACTIVATION: tl.constexpr, min_scale: tl.constexpr):
    """Scale s of each component: log sigma, 1 / sigma and d sigma / d raw."""
    raw = tl.load(scale_at + tl.cast(s, tl.int64) * scale_c, mask=valid, other=1.0).to(T)
    sigma, derivative = activate(raw, ACTIVATION, min_scale)
    return tl.log(sigma), 1 / sigma, derivative


@triton.jit
def residual_of(
    loc_at, loc_c, target_at, target_c, mask_at, mask_c, dim_scale, dim_scale_d, valid, inverse, d,
    T: tl.constexpr, LAPLACE: tl.constexpr, DIMS_IN_GROUP: tl.constexpr,
):  # fmt: skip
    """Dimension d of each component: the standardised residual z, what it adds to the energy, whether it is observed,
    1 / kappa, and log kappa where it is observed."""
    seen = valid
    if mask_at is not None:
        seen = tl.load(mask_at + tl.cast(d // DIMS_IN_GROUP, tl.int64) * mask_c, mask=valid, other=0) != 0
    target = tl.load(target_at + tl.cast(d, tl.int64) * target_c, mask=seen, other=0.0).to(T)
    loc = tl.load(loc_at + tl.cast(d, tl.int64) * loc_c, mask=seen, other=0.0).to(T)
    inverse_kappa = tl.full((), 1.0, T)
    if dim_scale is not None:
        kappa = tl.load(dim_scale + d * dim_scale_d).to(T)
        inverse_kappa = 1 / kappa
        log_kappa = tl.where(seen, tl.log(kappa), 0.0)
    else:
        log_kappa = tl.zeros(seen.shape, T)
    z = tl.where(seen, (target - loc) * (inverse * inverse_kappa), 0.0)
    energy = tl.abs(z) if LAPLACE else z * z
    return z, energy, seen.to(T), inverse_kappa, log_kappa


@triton.jit
def write_residual_gradients(
    z, pull, grad_loc_at, grad_loc_c, grad_target_at, grad_target_c, d, stored, stored_target, LAPLACE: tl.constexpr
):  # fmt: skip
    """Of loc and target, from z and the share of the posterior over sigma kappa."""
    slope = z
    if LAPLACE:
        slope = tl.where(z > 0, 1.0, tl.where(z < 0, -1.0, z))
    gradient = slope * pull
    if grad_loc_at is not None:
        tl.store(grad_loc_at + tl.cast(d, tl.int64) * grad_loc_c, -gradient, mask=stored)
    if grad_target_at is not None:
        over_components = tl.sum(gradient, 0, keep_dims=True)
        tl.store(grad_target_at + tl.cast(d, tl.int64) * grad_target_c, over_components, mask=stored_target)


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
    LAPLACE: tl.constexpr, ACTIVATION: tl.constexpr, min_scale: tl.constexpr, MEAN: tl.constexpr,
    KEEP: tl.constexpr, COUNTERS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    T: tl.constexpr = tl.float64 if loc.dtype.element_ty == tl.float64 else tl.float32
    LOG_NORMALISER: tl.constexpr = 0.69314718055994530942 if LAPLACE else 0.91893853320467274178  # log 2, log(2 pi) / 2
    ENERGY_FACTOR: tl.constexpr = 1.0 if LAPLACE else 0.5
    DIMS_IN_GROUP: tl.constexpr = C // G

    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = position < total
    batch, point, source, anything = place(
        position, total, points, mask, mask_b, mask_c, mask_p, index, index_b, index_p, G
    )
    m = tl.arange(0, ROWS)[:, None].to(tl.int64)
    valid = (m < M) & anything
    stored = (m < M) & inside

    # Components along the first axis, positions along the second. What all components share is addressed as a tile too:
    # then every load has the same layout over threads.
    loc_at = loc + (batch * loc_b + source * loc_p) + m * C * loc_c
    scale_at = scale + (batch * scale_b + source * scale_p) + m * S * scale_c
    target_at = tl.broadcast_to(target + (batch * target_b + point * target_p), (ROWS, BLOCK))
    mask_at = None
    if mask is not None:
        mask_at = tl.broadcast_to(mask + (batch * mask_b + point * mask_p), (ROWS, BLOCK))

    evidence = tl.zeros((ROWS, BLOCK), T)
    residuals = ()
    spreads = ()
    if KEEP:
        for s in tl.static_range(S):
            log_sigma, inverse, derivative = spread_of(scale_at, valid, scale_c, s, T, ACTIVATION, min_scale)
            energy = tl.zeros((ROWS, BLOCK), T)
            count = tl.zeros((ROWS, BLOCK), T)
            for j in tl.static_range(C // S):
                z, e, seen, _, log_kappa = residual_of(
                    loc_at, loc_c, target_at, target_c, mask_at, mask_c, dim_scale, dim_scale_d, valid, inverse,
                    j * S + s, T, LAPLACE, DIMS_IN_GROUP,
                )  # fmt: skip
                residuals += (z,)  # type: ignore[assignment]
                energy += e
                count += seen
                evidence -= log_kappa
            spreads += (inverse, derivative, energy, count)  # type: ignore[assignment]
            evidence -= energy * ENERGY_FACTOR + tl.where(count > 0, count * (log_sigma + LOG_NORMALISER), 0.0)
    else:
        for s in range(S):
            log_sigma, inverse, derivative = spread_of(scale_at, valid, scale_c, s, T, ACTIVATION, min_scale)
            energy = tl.zeros((ROWS, BLOCK), T)
            count = tl.zeros((ROWS, BLOCK), T)
            for j in range(C // S):
                z, e, seen, _, log_kappa = residual_of(
                    loc_at, loc_c, target_at, target_c, mask_at, mask_c, dim_scale, dim_scale_d, valid, inverse,
                    j * S + s, T, LAPLACE, DIMS_IN_GROUP,
                )  # fmt: skip
                energy += e
                count += seen
                evidence -= log_kappa
            evidence -= energy * ENERGY_FACTOR + tl.where(count > 0, count * (log_sigma + LOG_NORMALISER), 0.0)

    logits_at = logits + (batch * logits_b + source * logits_p) + m * logits_c
    logit = tl.where(m < M, tl.load(logits_at, mask=valid, other=0.0).to(T), -float("inf"))
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
            share = tl.cast(total, tl.float64)
            if observed_weight is not None:
                share = tl.sum(tl.load(observed_weight + tl.arange(0, COUNTERS)), 0)
                share = tl.where(share == 0, 1.0, share)
            factor = factor * (1 / share).to(T)
        pull = tl.where(anything, posterior * factor, 0.0)
        grad_loc_at = None
        grad_target_at = None
        if grad_loc is not None:
            at = grad_logits + (batch * grad_logits_b + point * grad_logits_p) + m * grad_logits_c
            tl.store(at, tl.where(anything, (alpha / alphas - posterior) * factor, 0.0), mask=stored)
            grad_loc_at = grad_loc + (batch * grad_loc_b + point * grad_loc_p) + m * C * grad_loc_c
            grad_scale_at = grad_scale + (batch * grad_scale_b + point * grad_scale_p) + m * S * grad_scale_c
        if grad_target is not None:
            grad_target_at = grad_target + (batch * grad_target_b + point * grad_target_p)
        if KEEP:
            for s in tl.static_range(S):
                inverse, derivative, energy, count = (
                    spreads[4 * s], spreads[4 * s + 1], spreads[4 * s + 2], spreads[4 * s + 3],
                )  # fmt: skip
                for j in tl.static_range(C // S):
                    inverse_kappa = tl.full((), 1.0, T)
                    if dim_scale is not None:
                        inverse_kappa = 1 / tl.load(dim_scale + (j * S + s) * dim_scale_d).to(T)
                    write_residual_gradients(
                        residuals[s * (C // S) + j], pull * (inverse * inverse_kappa), grad_loc_at, grad_loc_c,
                        grad_target_at, grad_target_c, j * S + s, stored, inside, LAPLACE,
                    )  # fmt: skip
                if grad_loc is not None:
                    gradient = tl.where(count > 0, pull * inverse * (count - energy) * derivative, 0.0)
                    tl.store(grad_scale_at + tl.cast(s, tl.int64) * grad_scale_c, gradient, mask=stored)
        else:
            for s in range(S):
                _, inverse, derivative = spread_of(scale_at, valid, scale_c, s, T, ACTIVATION, min_scale)
                energy = tl.zeros((ROWS, BLOCK), T)
                count = tl.zeros((ROWS, BLOCK), T)
                for j in range(C // S):
                    z, e, seen, inverse_kappa, _ = residual_of(
                        loc_at, loc_c, target_at, target_c, mask_at, mask_c, dim_scale, dim_scale_d, valid, inverse,
                        j * S + s, T, LAPLACE, DIMS_IN_GROUP,
                    )  # fmt: skip
                    energy += e
                    count += seen
                    write_residual_gradients(
                        z, pull * (inverse * inverse_kappa), grad_loc_at, grad_loc_c,
                        grad_target_at, grad_target_c, j * S + s, stored, inside, LAPLACE,
                    )  # fmt: skip
                if grad_loc is not None:
                    gradient = tl.where(count > 0, pull * inverse * (count - energy) * derivative, 0.0)
                    tl.store(grad_scale_at + tl.cast(s, tl.int64) * grad_scale_c, gradient, mask=stored)


@op(
    "mixture_nll",
    "(Tensor logits, Tensor loc, Tensor scale, Tensor target, Tensor? mask, Tensor? weight, Tensor? index, "
    "Tensor? dim_scale, str family, str scale_activation, float min_scale, str reduction, bool parameter_gradients, "
    "bool target_gradient) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _mixture_nll(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    family: str,
    scale_activation: str,
    min_scale: float,
    reduction: str,
    parameter_gradients: bool,
    target_gradient: bool,
) -> autograd.Loss:
    options = (family, scale_activation, min_scale, reduction, parameter_gradients, target_gradient)
    outputs = autograd.mixture_nll_outputs(logits, loc, scale, target, mask, weight, index, dim_scale, *options)
    loss, *gradients = outputs
    grad_logits, grad_loc, grad_scale = (value if parameter_gradients else None for value in gradients[:3])
    grad_target = gradients[3] if target_gradient else None
    batch, dims, points = target.shape
    total, components = batch * points, logits.shape[1]
    scales, groups = scale.shape[1] // components, 1 if mask is None else mask.shape[1]
    rows, block, keep = mixture_blocks(loc, components, dims, scales, index is not None, any(options[4:]))

    observed = (*(mask, *strides(mask, 3)), *(weight, *strides(weight, 2)), *(index, *strides(index, 2)))
    observed_weight = None
    if reduction == "mean" and not (mask is None and weight is None and index is None):
        observed_weight = loss.new_empty(COUNTERS, dtype=torch.float64)
        rounds = triton.cdiv(total, COUNTERS * 256)
        wrap_triton(observed_weight_kernel)[(COUNTERS,)](
            *observed, observed_weight, total, points, rounds, G=groups, BLOCK=256
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
            LAPLACE=family == "laplace",
            ACTIVATION=scale_activation,
            min_scale=min_scale,
            MEAN=reduction == "mean",
            KEEP=keep,
            COUNTERS=COUNTERS,
            ROWS=rows,
            BLOCK=block,
            num_warps=_WARPS,
        )
    if reduction != "none":
        write_total(partial, observed_weight, total if reduction == "mean" else 1, loss)
    return outputs


def mixture_blocks(
    loc: Tensor, components: int, dims: int, scales: int, indexed: bool, gradients: bool
) -> tuple[int, int, bool]:
    """Rows of a tile, its positions, and whether the residuals stay in registers.

    A thread holds as many neighbouring positions as make 16 bytes of a planar channel, but one where positions do not
    lie side by side: more programs then share the waiting.
    """
    rows = padded(components)
    planar = not indexed and loc.stride(2) == 1
    each = (2 if loc.dtype == torch.float64 else 4) if planar else 1
    block = max(32 * _WARPS * each // rows, 16)
    registers = rows * block * (dims + 4 * scales) // (32 * _WARPS) * (2 if loc.dtype == torch.float64 else 1)
    return rows, block, gradients and registers <= _KEPT_REGISTERS


@op("scatter_points", "(Tensor values, Tensor index, SymInt positions) -> Tensor")
def _scatter_points(values: Tensor, index: Tensor, positions: int) -> Tensor:
    """Points are patches of one cell, on a map of one row."""
    maps = values.new_zeros(*values.shape[:2], positions)
    add_patches(values.transpose(1, 2), index, maps.unsqueeze(2), 1)
    return maps


autograd.register_mixture_nll(NAMESPACE, "triton")


def mixture_nll(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    family: str,
    scale_activation: str,
    min_scale: float,
    reduction: str,
) -> Tensor:
    """See `mdnkernels.mixture_nll`. All tensors are (B, K, P); with `index`, target, mask, weight are (B, K, N)."""
    recording = torch.is_grad_enabled()
    return _mixture_nll(
        logits,
        loc,
        scale,
        target,
        mask,
        weight,
        index,
        dim_scale,
        family,
        scale_activation,
        min_scale,
        reduction,
        recording and (logits.requires_grad or loc.requires_grad or scale.requires_grad),
        recording and target.requires_grad,
    )[0]
