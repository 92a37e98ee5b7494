"""topk_peaks in Triton.

Memory story. A program reads a chunk of one image's cells with their windows, which the caches hold, and keeps the best
k of its peaks: no map is written. Further passes merge the chunks' candidates until one set of k is left, which the
last program ranks. Candidates stay in the order of their cells all the way, so that equal scores are told apart by
their place alone, whatever the dtype and however many cells.

The k-th largest of a chunk is found bit by bit: 32 counts (64 in double) over values in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from mdnkernels.ops.topk_peaks import autograd
from mdnkernels.triton.launch import NAMESPACE, op, padded, wrap_triton

_CHUNK = 4096  # cells or candidates in a program: many times the k that is kept of them
_WARPS = 8  # 16 values a thread, which stay in registers
_LARGEST_K = 1024  # beyond it a chunk keeps too much for selecting to pay: all candidates are sorted


@triton.jit
def write_best(keys, cells, k, keys_out, cells_out, BITS: tl.constexpr):
    """Write the k largest keys and their cells, in the order they have here; of equal ones the first."""
    one = tl.full((), 1, keys.dtype)
    least = one << (BITS - 1)  # the sign alone: what is no peak
    for i in range(BITS):
        higher = least ^ (one << (BITS - 1 - i))
        if tl.sum((keys >= higher).to(tl.int32), 0) >= k:
            least = higher
    above = keys > least
    equal = (keys == least).to(tl.int32)
    room = k - tl.sum(above.to(tl.int32), 0)
    kept = above | ((equal != 0) & (tl.cumsum(equal, 0) <= room))
    slot = tl.cumsum(kept.to(tl.int32), 0) - 1
    tl.store(keys_out + slot, keys, mask=kept)
    tl.store(cells_out + slot, cells, mask=kept)


@triton.jit
def peaks_kernel(
    heatmap, heatmap_b, heatmap_c, heatmap_h, heatmap_w,
    keys_out, cells_out,
    chunks, k, count, height, width, kernel_size,
    BITS: tl.constexpr, SELECT: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Write the best k cells of each chunk of an image, by their keys.

    A cell's key is its value's bits as an integer of the same order, the least one where it is no peak.
    """
    T: tl.constexpr = tl.float64 if BITS == 64 else tl.float32
    KEY: tl.constexpr = tl.int64 if BITS == 64 else tl.int32
    program = tl.program_id(0).to(tl.int64)
    cell = program % chunks * CHUNK + tl.arange(0, CHUNK)
    inside = cell < count
    label = cell // (tl.cast(height, tl.int64) * width)
    y = cell // width % height
    x = cell % width
    plane = heatmap + program // chunks * heatmap_b + label * heatmap_c
    value = tl.load(plane + y * heatmap_h + x * heatmap_w, mask=inside, other=0.0).to(T)
    peak = inside & (value == value)
    reach = kernel_size // 2
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            v = y + down
            u = x + right
            within = inside & (v >= 0) & (v < height) & (u >= 0) & (u < width)
            neighbour = tl.load(plane + v * heatmap_h + u * heatmap_w, mask=within, other=-float("inf")).to(T)
            peak = peak & (neighbour <= value)  # not beside a NaN
    bits = tl.where(value == 0, 0.0, value).to(KEY, bitcast=True)  # -0 equals 0
    one = tl.full((), 1, KEY)
    sign = one << (BITS - 1)
    keys = tl.where(peak, bits ^ ((bits >> (BITS - 1)) & ~sign), sign)
    if SELECT:
        write_best(keys, cell, k, keys_out + program * k, cells_out + program * k, BITS)
    else:
        tl.store(keys_out + program // chunks * count + cell, keys, mask=inside)


@triton.jit
def merge_kernel(keys, cells, keys_out, cells_out, chunks, k, count, BITS: tl.constexpr, CHUNK: tl.constexpr):
    """Write the best k of each chunk of an image's candidates."""
    KEY: tl.constexpr = tl.int64 if BITS == 64 else tl.int32
    program = tl.program_id(0).to(tl.int64)
    candidate = program % chunks * CHUNK + tl.arange(0, CHUNK)
    at = program // chunks * count + candidate
    none = tl.full((), 1, KEY) << (BITS - 1)
    values = tl.load(keys + at, mask=candidate < count, other=none)
    places = tl.load(cells + at, mask=candidate < count, other=0)
    write_best(values, places, k, keys_out + program * k, cells_out + program * k, BITS)


@triton.jit
def write_peaks_kernel(
    heatmap, heatmap_b, heatmap_c, heatmap_h, heatmap_w,
    keys, cells,
    score, label, index,
    found, k, height, width,
    BITS: tl.constexpr, SORTED: tl.constexpr, LOGITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the `found` candidates of each image by rank, and what stands for no peak in the places left."""
    T: tl.constexpr = tl.float64 if BITS == 64 else tl.float32
    KEY: tl.constexpr = tl.int64 if BITS == 64 else tl.int32
    batch = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    none = tl.full((), 1, KEY) << (BITS - 1)
    key = tl.load(keys + batch * found + i, mask=i < found, other=none)
    cell = tl.load(cells + batch * found + i, mask=i < found, other=0)
    rank = i
    if not SORTED:
        rank = tl.zeros((BLOCK,), tl.int32)
        for first in range(0, BLOCK, 16):
            j = first + tl.arange(0, 16)
            other = tl.load(keys + batch * found + j, mask=j < found, other=none)[None, :]
            before = (other > key[:, None]) | ((other == key[:, None]) & (j[None, :] < i[:, None]))
            rank += tl.sum(before.to(tl.int32), 1)
    real = key != none
    area = tl.cast(height, tl.int64) * width
    plane = heatmap + batch * heatmap_b + cell // area * heatmap_c
    value = tl.load(plane + cell // width % height * heatmap_h + cell % width * heatmap_w, mask=real, other=0.0).to(T)
    if LOGITS:
        value = tl.where(real, 1 / (1 + tl.exp(-value)), 0.0)
    at = batch * k + rank
    tl.store(score + at, value.to(score.dtype.element_ty), mask=rank < k)
    tl.store(label + at, tl.where(real, cell // area, -1), mask=rank < k)
    tl.store(index + at, tl.where(real, cell % area, -1), mask=rank < k)


@op(
    "topk_peaks",
    "(Tensor heatmap, SymInt k, SymInt kernel_size, bool logits) -> (Tensor, Tensor, Tensor)",
)
def _topk_peaks(heatmap: Tensor, k: int, kernel_size: int, logits: bool) -> tuple[Tensor, Tensor, Tensor]:
    score, label, index = autograd.topk_peaks_outputs(heatmap, k, kernel_size, logits)
    batch, labels, height, width = heatmap.shape
    count = labels * height * width
    if batch == 0 or count == 0:
        return score.zero_(), label.fill_(-1), index.fill_(-1)
    bits = 64 if heatmap.dtype == torch.float64 else 32
    key_dtype = torch.int64 if bits == 64 else torch.int32
    select = k <= _LARGEST_K
    chunks = triton.cdiv(count, _CHUNK)
    candidates = chunks * k if select else count
    keys = label.new_empty((batch, candidates), dtype=key_dtype)
    cells = label.new_empty((batch, candidates if select else 0))
    wrap_triton(peaks_kernel)[(batch * chunks,)](
        *(heatmap, *heatmap.stride(), keys, cells, chunks, k, count, height, width),
        min(kernel_size, 2 * max(height, width) + 1),  # a window that covers the map from any cell
        BITS=bits,
        SELECT=select,
        CHUNK=_CHUNK,
        num_warps=_WARPS,
    )
    while select and chunks > 1:
        candidates, chunks = chunks * k, triton.cdiv(chunks * k, _CHUNK)
        best_keys, best_cells = (
            label.new_empty((batch, chunks * k), dtype=key_dtype),
            label.new_empty((batch, chunks * k)),
        )
        wrap_triton(merge_kernel)[(batch * chunks,)](
            *(keys, cells, best_keys, best_cells, chunks, k, candidates), BITS=bits, CHUNK=_CHUNK, num_warps=_WARPS
        )
        keys, cells = best_keys, best_cells
    if not select:
        keys, cells = torch.sort(keys, dim=1, descending=True, stable=True)
    block = max(padded(min(k, _LARGEST_K)), 16)
    wrap_triton(write_peaks_kernel)[(batch, triton.cdiv(k, block))](
        *(heatmap, *heatmap.stride(), keys, cells, score, label, index, keys.shape[1], k, height, width),
        BITS=bits,
        SORTED=not select,
        LOGITS=logits,
        BLOCK=block,
    )
    return score, label, index


autograd.register(NAMESPACE, "triton")
topk_peaks: Callable[..., tuple[Tensor, Tensor, Tensor]] = partial(autograd.topk_peaks, NAMESPACE)
