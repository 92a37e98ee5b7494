"""gather_patches in Triton, and its backward without atomics.

Memory story. A program of the forward pass reads the windows of one point over a block of channels and writes them side
by side; nothing else is touched. The backward pass fills the map with zeros and then writes only cells that some window
covers. The first point of the index that covers a cell owns it: its program adds up what all later points hold for that
cell, in the order of the index and in at least float32, and writes it once. So no two programs write one cell, and the
sums have the same bits every time. It costs reading the image's index in every program, N numbers for N points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import triton
import triton.language as tl
from torch import Tensor

from mdnkernels.ops.gather_patches import autograd
from mdnkernels.triton.launch import NAMESPACE, op, padded, wrap_triton

_BLOCK = 512  # elements of a patch in a program of the forward pass: four for each thread
_CHANNELS = 64  # channels in a program of the backward pass


@triton.jit
def gather_patches_kernel(
    feature, feature_b, feature_c, feature_h, feature_w,
    index, index_b, index_n,
    patches,
    points, length, height, width,
    K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    batch = row // points
    chosen = tl.load(index + batch * index_b + row % points * index_n)
    element = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel = element // (K * K)
    y = chosen // width + element % (K * K) // K - K // 2
    x = chosen % width + element % K - K // 2
    inside = (chosen >= 0) & (y >= 0) & (y < height) & (x >= 0) & (x < width) & (element < length)
    at = feature + batch * feature_b + channel * feature_c + y * feature_h + x * feature_w
    tl.store(patches + row * length + element, tl.load(at, mask=inside, other=0.0), mask=element < length)


@triton.jit
def add_patches_kernel(
    grad_patches, grad_patches_b, grad_patches_n, grad_patches_e,
    index, index_b, index_n,
    grad_feature, grad_feature_b, grad_feature_c, grad_feature_h, grad_feature_w,
    points, channels, height, width,
    K: tl.constexpr, CELLS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    T: tl.constexpr = tl.float64 if grad_patches.dtype.element_ty == tl.float64 else tl.float32
    row = tl.program_id(0).to(tl.int64)
    batch = row // points
    point = row % points
    index += batch * index_b
    chosen = tl.load(index + point * index_n)
    if chosen >= 0:
        cell = tl.arange(0, CELLS)[:, None]
        y = chosen // width + cell // K - K // 2
        x = chosen % width + cell % K - K // 2
        owned = (cell < K * K) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        for earlier in range(point):
            other = tl.load(index + earlier * index_n)
            covers = (tl.abs(y - other // width) <= K // 2) & (tl.abs(x - other % width) <= K // 2)
            owned = owned & ((other < 0) | (covers == 0))
        channel = tl.program_id(1).to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
        total = tl.zeros((CELLS, CHANNELS), T)
        for later in range(point, points):
            other = tl.load(index + later * index_n)
            down = y - other // width + K // 2  # the cell's place in the other point's window
            right = x - other % width + K // 2
            covers = owned & (other >= 0) & (down >= 0) & (down < K) & (right >= 0) & (right < K)
            element = channel * (K * K) + down * K + right
            at = grad_patches + batch * grad_patches_b + later * grad_patches_n + element * grad_patches_e
            total += tl.load(at, mask=covers & (channel < channels), other=0.0).to(T)
        at = grad_feature + batch * grad_feature_b + channel * grad_feature_c + y * grad_feature_h + x * grad_feature_w
        tl.store(at, total.to(grad_feature.dtype.element_ty), mask=owned & (channel < channels))


def add_patches(grad_patches: Tensor, index: Tensor, grad_feature: Tensor, kernel_size: int) -> None:
    """Add patches (B, N, C * k * k) into the zeros of (B, C, H, W)."""
    batch, channels, height, width = grad_feature.shape
    points = index.shape[1]
    block = min(_CHANNELS, padded(channels))
    if batch * points * channels > 0:
        wrap_triton(add_patches_kernel)[(batch * points, triton.cdiv(channels, block))](
            *(grad_patches, *grad_patches.stride(), index, *index.stride(), grad_feature, *grad_feature.stride()),
            *(points, channels, height, width),
            K=kernel_size,
            CELLS=padded(kernel_size**2),
            CHANNELS=block,
        )


@op("gather_patches", "(Tensor feature, Tensor index, SymInt kernel_size) -> Tensor")
def _gather_patches(feature: Tensor, index: Tensor, kernel_size: int) -> Tensor:
    patches = autograd.patches_output(feature, index, kernel_size)
    batch, points, length = patches.shape
    if patches.numel() > 0:
        wrap_triton(gather_patches_kernel)[(batch * points, triton.cdiv(length, _BLOCK))](
            *(feature, *feature.stride(), index, *index.stride(), patches),
            *(points, length, feature.shape[2], feature.shape[3]),
            K=kernel_size,
            BLOCK=_BLOCK,
        )
    return patches


@op(
    "gather_patches_backward",
    "(Tensor grad_patches, Tensor index, SymInt[] size, SymInt[] stride, SymInt kernel_size) -> Tensor",
)
def _gather_patches_backward(
    grad_patches: Tensor, index: Tensor, size: Sequence[int], stride: Sequence[int], kernel_size: int
) -> Tensor:
    grad_feature = grad_patches.new_empty_strided(size, stride).zero_()
    add_patches(grad_patches, index, grad_feature, kernel_size)
    return grad_feature


autograd.register(NAMESPACE, "triton")
gather_patches: Callable[..., Tensor] = partial(autograd.gather_patches, NAMESPACE)
