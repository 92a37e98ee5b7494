"""heatmap_focal_loss in Triton: one kernel gives the loss and, where it will be wanted, its gradient.

Memory story. logits and target are read once, 16 bytes a thread, and the gradient is written once. The gradient's
divisor, the number of positives, must be known before: a pass that counts them reads target once more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from mdnkernels.ops.heatmap_focal_loss import autograd
from mdnkernels.triton.functions import log1p
from mdnkernels.triton.launch import COUNTERS, NAMESPACE, op, wrap_triton, write_total

_BLOCK = 1024  # eight elements for each thread: 16 bytes of half precision, two loads of float32


@triton.jit
def count_positives_kernel(target, partial, count, rounds, BLOCK: tl.constexpr):
    """Count positives as partial sums, one a program."""
    first = tl.program_id(0).to(tl.int64) * rounds * BLOCK
    positives = tl.zeros((BLOCK,), tl.int64)
    for i in range(rounds):
        element = first + i * BLOCK + tl.arange(0, BLOCK)
        positives += (tl.load(target + element, mask=element < count, other=0.0) == 1).to(tl.int64)
    tl.store(partial + tl.program_id(0), tl.sum(positives, 0).to(tl.float64))


@triton.jit
def focal_terms(logit, wanted, positive, alpha: tl.constexpr, beta: tl.constexpr):
    """Return each element's loss and slope, where `positive` the target `wanted` is 1.

    With y = logit, at a positive y = -logit, both of the loss's cases are weight s^alpha softplus(y) with
    s = sigmoid(y), and d/dy = weight s^alpha (alpha (1 - s) softplus(y) + s), weight 1 at a positive. One e^-|y|, one
    logarithm and one division give s, 1 - s and softplus without cancellation, however large |y| is.
    """
    y = tl.where(positive, -logit, logit)
    e = tl.exp(-tl.abs(y))
    log_rest = log1p(e)
    softplus = tl.where(y > 0, y, 0.0) + log_rest
    inverse = 1 / (1 + e)
    s = tl.where(y > 0, 1.0, e) * inverse
    rest = tl.where(y > 0, e, 1.0) * inverse
    focus = s * s if alpha == 2.0 else tl.exp((tl.where(y < 0, y, 0.0) - log_rest) * alpha)
    if beta == 4.0:
        weight = (1 - wanted) * (1 - wanted)
        weight = weight * weight
    elif beta == 0.0:
        weight = (1 - wanted) * 0 + 1  # NaN stays
    else:
        weight = tl.where(wanted == 1, 0.0, tl.exp(tl.log(1 - wanted) * beta))
    focus = focus * tl.where(positive, 1.0, weight)
    slope = focus * (alpha * rest * softplus + s)
    return focus * softplus, tl.where(positive, -slope, slope)


@triton.jit
def gradient_factor(positives, COUNTERS: tl.constexpr):
    """Return 1 over the sum of the counts, which is 1 where there are none."""
    divisor = tl.sum(tl.load(positives + tl.arange(0, COUNTERS)), 0)
    return 1 / tl.where(divisor == 0, 1.0, divisor)


@triton.jit
def focal_kernel(
    logits, target, positives, partial, grad_logits, count,
    alpha: tl.constexpr, beta: tl.constexpr, COUNTERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write each program's part of the loss and, where it is wanted, the gradient of each element."""
    T: tl.constexpr = tl.float64 if logits.dtype.element_ty == tl.float64 else tl.float32
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = element < count
    logit = tl.load(logits + element, mask=inside, other=0.0).to(T)
    wanted = tl.load(target + element, mask=inside, other=0.0).to(T)
    loss, slope = focal_terms(logit, wanted, wanted == 1, alpha, beta)
    tl.store(partial + tl.program_id(0), tl.sum(tl.where(inside, loss, 0.0).to(tl.float64), 0))
    if grad_logits is not None:
        slope = slope * gradient_factor(positives, COUNTERS).to(T)
        tl.store(grad_logits + element, slope.to(grad_logits.dtype.element_ty), mask=inside)


@op(
    "heatmap_focal_loss",
    "(Tensor logits, Tensor target, float alpha, float beta, bool logits_gradient) -> (Tensor, Tensor)",
)
def _heatmap_focal_loss(
    logits: Tensor, target: Tensor, alpha: float, beta: float, logits_gradient: bool
) -> tuple[Tensor, Tensor]:
    loss, gradient = autograd.heatmap_focal_loss_outputs(logits, target, alpha, beta, logits_gradient)
    count = logits.numel()
    positives = loss.new_empty(COUNTERS, dtype=torch.float64)
    rounds = triton.cdiv(count, COUNTERS * _BLOCK)
    wrap_triton(count_positives_kernel)[(COUNTERS,)](target, positives, count, rounds, BLOCK=_BLOCK)
    programs = triton.cdiv(count, _BLOCK)
    partial = loss.new_empty(programs, dtype=torch.float64)
    if count > 0:
        wrap_triton(focal_kernel)[(programs,)](
            *(logits, target, positives, partial, gradient if logits_gradient else None, count),
            alpha=alpha,
            beta=beta,
            COUNTERS=COUNTERS,
            BLOCK=_BLOCK,
        )
    write_total(partial, positives, 1, loss)
    return loss, gradient


autograd.register(NAMESPACE, "triton")
heatmap_focal_loss: Callable[..., Tensor] = partial(autograd.heatmap_focal_loss, NAMESPACE)
