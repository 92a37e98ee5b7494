"""splat_gaussians in Triton.

Memory story. A program makes a block of cells of one (image, label) map: it looks at the image's objects one after the
other, takes those of its label, keeps the maximum in registers and writes each cell once, 16 bytes a thread. A maximum
does not depend on the order, so the result has the same bits every time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import triton
import triton.language as tl
from torch import Tensor

from mdnkernels.ops.splat_gaussians import autograd
from mdnkernels.triton.launch import NAMESPACE, op, wrap_triton

_BLOCK = 1024  # eight cells for each thread: the walk over the objects is shared by as many


@triton.jit
def splat_gaussians_kernel(
    center, center_b, center_n, center_d,
    radius, radius_b, radius_n,
    label, label_b, label_n,
    heatmap,
    objects, labels, height, width,
    BLOCK: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(0).to(tl.int64)
    batch = plane // labels
    cell = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    y = cell // width
    x = cell % width
    value = tl.zeros((BLOCK,), tl.float32)
    for i in range(objects):
        if tl.load(label + batch * label_b + i * label_n) == plane % labels:
            at = center + batch * center_b + i * center_n
            across = x - tl.load(at)
            down = y - tl.load(at + center_d)
            r = tl.load(radius + batch * radius_b + i * radius_n)
            within = (tl.abs(across) <= r) & (tl.abs(down) <= r)
            sigma = (2 * r + 1).to(tl.float32) / 6
            squares = (across * across + down * down).to(tl.float32)
            value = tl.maximum(value, tl.where(within, tl.exp(-squares / (2 * sigma * sigma)), 0.0))
    tl.store(heatmap + plane * height * width + cell, value, mask=cell < height * width)


@op(
    "splat_gaussians",
    "(Tensor center, Tensor radius, Tensor label, SymInt num_labels, SymInt height, SymInt width) -> Tensor",
)
def _splat_gaussians(center: Tensor, radius: Tensor, label: Tensor, num_labels: int, height: int, width: int) -> Tensor:
    heatmap = autograd.splat_gaussians_output(center, radius, label, num_labels, height, width)
    batch, objects = label.shape
    if batch > 0:
        wrap_triton(splat_gaussians_kernel)[(batch * num_labels, triton.cdiv(height * width, _BLOCK))](
            *(center, *center.stride(), radius, *radius.stride(), label, *label.stride(), heatmap),
            *(objects, num_labels, height, width),
            BLOCK=_BLOCK,
        )
    return heatmap


autograd.register(NAMESPACE, "triton")
splat_gaussians: Callable[..., Tensor] = partial(autograd.splat_gaussians, NAMESPACE)
