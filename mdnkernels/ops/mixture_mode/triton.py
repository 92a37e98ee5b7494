"""mixture_mode in Triton; its gradient is that of `mdnkernels.autograd`.

Memory story. A program holds the M weights of a block of positions as one tile, (M, block), read 16 bytes a thread, and
finds the chosen component; then it reads that component's loc and scale alone and writes each output once. "density"
reads all scales besides, "mean" everything once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from mdnkernels.mixture.triton import activate
from mdnkernels.ops.mixture_mode import autograd
from mdnkernels.triton.launch import NAMESPACE, op, padded, strides, wrap_triton


@triton.jit
def mixture_mode_kernel(
    logits, logits_b, logits_c, logits_p,
    loc, loc_b, loc_c, loc_p,
    scale, scale_b, scale_c, scale_p,
    index, index_b, index_p,
    mode_loc, mode_loc_b, mode_loc_c, mode_loc_p,
    mode_scale, mode_scale_b, mode_scale_c, mode_scale_p,
    component_out, weight_out,
    allowed,
    total, points,
    M: tl.constexpr, C: tl.constexpr, S: tl.constexpr,
    SELECT: tl.constexpr, ACTIVATION: tl.constexpr, min_scale: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    T: tl.constexpr = tl.float64 if loc.dtype.element_ty == tl.float64 else tl.float32
    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = position < total
    batch = position // points
    point = position % points
    source = point
    real = inside
    if index is not None:
        source = tl.load(index + batch * index_b + point * index_p, mask=inside, other=-1)
        real = source >= 0
        source = tl.where(real, source, 0)
    m = tl.arange(0, ROWS)[:, None].to(tl.int64)
    valid = (m < M) & real

    logit = tl.load(logits + (batch * logits_b + source * logits_p) + m * logits_c, mask=valid, other=0.0).to(T)
    logit = tl.where(m < M, logit, -float("inf"))
    top = tl.max(logit, 0, keep_dims=True)
    alpha = tl.exp(logit - top)
    alphas = tl.sum(alpha, 0, keep_dims=True)
    alpha = alpha / alphas
    score = logit  # alpha's order, where alpha itself may underflow
    if SELECT == "density":
        # At its own mean a component's density is alpha / prod_d sigma_d, up to factors that all components share.
        score = logit - top - tl.log(alphas)
        for s in range(S):
            raw_at = scale + (batch * scale_b + source * scale_p) + (m * S + s) * scale_c
            raw = tl.load(raw_at, mask=valid, other=1.0).to(T)
            sigma, _ = activate(raw, ACTIVATION, min_scale)
            score -= tl.log(sigma) * (C // S)
    choice = m < M
    if allowed is not None:
        choice = choice & (tl.load(allowed + m, mask=m < M, other=0) != 0)

    # The first of the largest; NaN is larger than all else, as in torch.argmax.
    best = tl.max(tl.where(choice & (score == score), score, -float("inf")), 0, keep_dims=True)
    first = tl.min(tl.where(choice & (score == best), m, ROWS), 0, keep_dims=True)
    first_nan = tl.min(tl.where(choice & (score != score), m, ROWS), 0, keep_dims=True)
    component = tl.where(first_nan < ROWS, first_nan, first)
    weight = tl.sum(tl.where(m == component, alpha, 0.0), 0, keep_dims=True)
    tl.store(component_out + position, tl.where(real, component, -1), mask=inside)
    tl.store(weight_out + position, tl.where(real, weight, 0.0).to(weight_out.dtype.element_ty), mask=inside)

    loc_at = loc + (batch * loc_b + source * loc_p)
    mode_loc_at = mode_loc + (batch * mode_loc_b + point * mode_loc_p)
    if scale is not None:
        scale_at = scale + (batch * scale_b + source * scale_p)
        mode_scale_at = mode_scale + (batch * mode_scale_b + point * mode_scale_p)
    if SELECT == "mean":
        # alpha of those that may be chosen alone, from their logits: all of their alphas may have underflowed.
        share = tl.exp(tl.where(choice, logit - best, -float("inf")))
        averaged = choice & real
        share = tl.where(averaged, share / tl.sum(share, 0, keep_dims=True), 0.0)
        for d in range(C):
            value = tl.load(loc_at + (m * C + d) * loc_c, mask=averaged, other=0.0).to(T)
            value = tl.sum(share * value, 0, keep_dims=True).to(mode_loc.dtype.element_ty)
            tl.store(mode_loc_at + tl.cast(d, tl.int64) * mode_loc_c, value, mask=inside)
        if scale is not None:
            for s in range(S):
                raw = tl.load(scale_at + (m * S + s) * scale_c, mask=averaged, other=1.0).to(T)
                sigma, _ = activate(raw, ACTIVATION, min_scale)
                sigma = tl.sum(share * sigma, 0, keep_dims=True).to(mode_scale.dtype.element_ty)
                tl.store(mode_scale_at + tl.cast(s, tl.int64) * mode_scale_c, sigma, mask=inside)
    else:
        for d in range(C):
            value = tl.load(loc_at + (component * C + d) * loc_c, mask=real, other=0.0)
            tl.store(mode_loc_at + tl.cast(d, tl.int64) * mode_loc_c, value, mask=inside)
        if scale is not None:
            for s in range(S):
                raw = tl.load(scale_at + (component * S + s) * scale_c, mask=real, other=1.0).to(T)
                sigma, _ = activate(raw, ACTIVATION, min_scale)
                sigma = tl.where(real, sigma, 0.0).to(mode_scale.dtype.element_ty)
                tl.store(mode_scale_at + tl.cast(s, tl.int64) * mode_scale_c, sigma, mask=inside)


@op(
    "mixture_mode",
    "(Tensor logits, Tensor loc, Tensor? scale, Tensor? index, str select, int[]? components, str scale_activation, "
    "float min_scale) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _mixture_mode(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor | None,
    index: Tensor | None,
    select: str,
    components: Sequence[int] | None,
    scale_activation: str,
    min_scale: float,
) -> autograd.Mode:
    outputs = autograd.mixture_mode_outputs(logits, loc, scale, index, select, components, scale_activation, min_scale)
    mode_loc, mode_scale, component, weight = outputs
    count, (batch, dims, points) = logits.shape[1], mode_loc.shape
    scales = 1 if scale is None else scale.shape[1] // count
    # Four neighbouring positions a thread, where they lie side by side; fewer where the tile of weights would fill the
    # registers.
    rows = padded(count)
    block = max(min(512 if index is None and loc.stride(2) == 1 else 128, 4096 // rows), 16)
    allowed = None
    if components is not None:
        allowed = component.new_zeros(count, dtype=torch.int32)
        for chosen in components:  # one by one: a list would be copied to the device, which waits
            allowed[chosen] = 1
    total = batch * points
    if total > 0:
        wrap_triton(mixture_mode_kernel)[(triton.cdiv(total, block),)](
            *(logits, *logits.stride(), loc, *loc.stride(), scale, *strides(scale, 3), index, *strides(index, 2)),
            *(mode_loc, *mode_loc.stride()),
            *(mode_scale, *(strides(None, 3) if scale is None else mode_scale.stride()), component, weight),
            *(allowed, total, points),
            M=count,
            C=dims,
            S=scales,
            SELECT=select,
            ACTIVATION=scale_activation,
            min_scale=min_scale,
            ROWS=rows,
            BLOCK=block,
        )
    return outputs


autograd.register(NAMESPACE, "triton")
mixture_mode: Callable[..., tuple[Tensor, Tensor | None, Tensor, Tensor]] = partial(autograd.mixture_mode, NAMESPACE)
