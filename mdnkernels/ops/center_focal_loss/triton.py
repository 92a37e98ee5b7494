"""center_focal_loss in Triton: one kernel draws the targets and gives the loss and, where it is wanted, its gradient.

Memory story. logits are read once, 16 bytes a thread, and the gradient is written once. A program makes its elements'
targets in registers: it looks at the image's objects one after the other and draws those that reach it. The gradient's
divisor is the number of distinct centres, which a kernel counts before from the objects alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from mdnkernels.ops.center_focal_loss import autograd
from mdnkernels.ops.center_focal_loss.eager import BELOW_ONE
from mdnkernels.ops.heatmap_focal_loss.triton import focal_terms, gradient_factor
from mdnkernels.triton.launch import COUNTERS, NAMESPACE, op, strides, wrap_triton, write_total

_BLOCK = 1024  # eight elements for each thread: 16 bytes of half precision, two loads of float32
_OBJECTS = 128  # of a program that counts


@triton.jit
def count_centers_kernel(
    center, center_b, center_n, center_d, label, label_b, label_n, ignore, ignore_b, ignore_n,
    partial, count, objects, rounds,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Count the objects that no earlier one shares map and centre cell with, as partial sums, one a program."""
    positives = tl.zeros((BLOCK,), tl.int64)
    for i in range(rounds):
        at = (tl.program_id(0).to(tl.int64) * rounds + i) * BLOCK + tl.arange(0, BLOCK)
        inside = at < count
        image = tl.where(inside, at // objects, 0)
        place = tl.where(inside, at % objects, 0)
        of = tl.load(label + image * label_b + place * label_n)
        x = tl.load(center + image * center_b + place * center_n)
        y = tl.load(center + image * center_b + place * center_n + center_d)
        counted = inside & (of >= 0)
        if ignore is not None:
            counted &= tl.load(ignore + image * ignore_b + place * ignore_n) == 0
        for j in range(objects):
            same = (tl.load(label + image * label_b + j * label_n) == of) & (j < place)
            same &= tl.load(center + image * center_b + j * center_n) == x
            same &= tl.load(center + image * center_b + j * center_n + center_d) == y
            if ignore is not None:
                same &= tl.load(ignore + image * ignore_b + j * ignore_n) == 0
            counted &= ~same
        positives += counted.to(tl.int64)
    tl.store(partial + tl.program_id(0), tl.sum(positives, 0).to(tl.float64))


@triton.jit
def center_focal_kernel(
    logits,
    center, center_b, center_n, center_d, radius, radius_b, radius_n, label, label_b, label_n,
    ignore, ignore_b, ignore_n,
    positives, partial, grad_logits,
    objects, labels, height, width,
    alpha: tl.constexpr, beta: tl.constexpr, below_one: tl.constexpr, channels_last: tl.constexpr,
    COUNTERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write each program's part of the loss and, where it is wanted, the gradient of each element."""
    T: tl.constexpr = tl.float64 if logits.dtype.element_ty == tl.float64 else tl.float32
    cells = height.to(tl.int64) * width
    count = cells * labels  # of an image
    blocks = (count + BLOCK - 1) // BLOCK
    image = tl.program_id(0) // blocks
    first = tl.program_id(0) % blocks * BLOCK
    last = tl.minimum(first + BLOCK, count) - 1
    element = first + tl.arange(0, BLOCK)
    inside = element < count
    # `low` to `high` are the labels of these elements, `top` to `bottom` their rows.
    if channels_last:
        own, cell = element % labels, element // labels
        low, high = 0, labels - 1
        top, bottom = first // labels // width, last // labels // width
    else:
        own, cell = element // cells, element % cells
        low, high = first // cells, last // cells
        top = tl.where(low == high, first % cells // width, 0)
        bottom = tl.where(low == high, last % cells // width, height - 1)
    y = cell // width
    x = cell % width
    drawn = tl.zeros((BLOCK,), tl.float32)
    centre = tl.zeros((BLOCK,), tl.int1)
    for i in range(objects):
        of = tl.load(label + image * label_b + i * label_n)
        at = center + image * center_b + i * center_n
        down = tl.load(at + center_d)
        r = tl.load(radius + image * radius_b + i * radius_n)
        if (of >= low) & (of <= high) & (of >= 0) & (down + r >= top) & (down - r <= bottom):
            across = x - tl.load(at)
            below = y - down
            within = (own == of) & (tl.abs(across) <= r) & (tl.abs(below) <= r)
            sigma = (2 * r + 1).to(tl.float32) / 6
            squares = (across * across + below * below).to(tl.float32)
            value = tl.minimum(tl.exp(-squares / (2 * sigma * sigma)), below_one)
            drawn = tl.maximum(drawn, tl.where(within, value, 0.0))
            here = within & (across == 0) & (below == 0)
            if ignore is not None:
                here &= tl.load(ignore + image * ignore_b + i * ignore_n) == 0
            centre |= here
    place = image.to(tl.int64) * count + element
    logit = tl.load(logits + place, mask=inside, other=0.0).to(T)
    loss, slope = focal_terms(logit, drawn.to(T), centre, alpha, beta)
    tl.store(partial + tl.program_id(0), tl.sum(tl.where(inside, loss, 0.0).to(tl.float64), 0))
    if grad_logits is not None:
        slope = slope * gradient_factor(positives, COUNTERS).to(T)
        tl.store(grad_logits + place, slope.to(grad_logits.dtype.element_ty), mask=inside)


@op(
    "center_focal_loss",
    "(Tensor logits, Tensor center, Tensor radius, Tensor label, Tensor? ignore, float alpha, float beta, "
    "bool logits_gradient) -> (Tensor, Tensor)",
)
def _center_focal_loss(
    logits: Tensor,
    center: Tensor,
    radius: Tensor,
    label: Tensor,
    ignore: Tensor | None,
    alpha: float,
    beta: float,
    logits_gradient: bool,
) -> tuple[Tensor, Tensor]:
    loss, gradient = autograd.center_focal_loss_outputs(
        logits, center, radius, label, ignore, alpha, beta, logits_gradient
    )
    batch, labels, height, width = logits.shape
    objects = label.shape[1]
    positives = loss.new_zeros(COUNTERS, dtype=torch.float64)
    places = (center, *center.stride(), label, *label.stride(), ignore, *strides(ignore, 2))
    if label.numel() > 0:
        rounds = triton.cdiv(batch * objects, COUNTERS * _OBJECTS)
        counting = triton.cdiv(batch * objects, rounds * _OBJECTS)
        wrap_triton(count_centers_kernel)[(counting,)](
            *places, positives, batch * objects, objects, rounds, BLOCK=_OBJECTS
        )
    programs = batch * triton.cdiv(labels * height * width, _BLOCK)
    partial = loss.new_empty(programs, dtype=torch.float64)
    if batch > 0:
        wrap_triton(center_focal_kernel)[(programs,)](
            *(logits, center, *center.stride(), radius, *radius.stride(), label, *label.stride()),
            *(ignore, *strides(ignore, 2), positives, partial, gradient if logits_gradient else None),
            *(objects, labels, height, width),
            alpha=alpha,
            beta=beta,
            below_one=BELOW_ONE,
            channels_last=not logits.is_contiguous(),
            COUNTERS=COUNTERS,
            BLOCK=_BLOCK,
        )
    write_total(partial, positives, 1, loss)
    return loss, gradient


autograd.register(NAMESPACE, "triton")
center_focal_loss: Callable[..., Tensor] = partial(autograd.center_focal_loss, NAMESPACE)
