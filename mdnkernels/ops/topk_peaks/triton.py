"""topk_peaks in Triton.

Memory story. A program of the first pass reads a chunk of one image's cells with their windows, which the caches hold,
and keeps the best k of its peaks and the largest: no map is written. The second pass has a program an image. The k-th
largest of the chunks' largest is a floor that k peaks reach: only what lies above it, in the chunks that reach it, is
read again, and the best k of that, hardly more than k, are ranked and written. Candidates stay in the order of their
cells all the way, so that equal scores are told apart by their place alone, whatever the dtype and however many cells.

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
def kth_largest(keys, k, BITS: tl.constexpr):
    """Return the k-th largest of keys, bit by bit; the least of all keys, which no peak has, where there are fewer."""
    one = tl.full((), 1, keys.dtype)
    least = one << (BITS - 1)
    for i in range(BITS):
        higher = least ^ (one << (BITS - 1 - i))
        if tl.sum((keys >= higher).to(tl.int32), 0) >= k:
            least = higher
    return least


@triton.jit
def write_best(keys, cells, k, keys_out, cells_out, BITS: tl.constexpr):
    """Write the k largest keys and their cells, in the order they have here; of equal ones the first."""
    least = kth_largest(keys, k, BITS)
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
    keys_out, cells_out, largest,
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
        tl.store(largest + program, tl.max(keys, 0))
    else:
        tl.store(keys_out + program // chunks * count + cell, keys, mask=inside)


@triton.jit
def write_ranked(
    heatmap, heatmap_c, heatmap_h, heatmap_w,
    keys, cells, found,
    score, label, index,
    first, k, height, width,
    BITS: tl.constexpr, SORTED: tl.constexpr, LOGITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write BLOCK of an image's `found` candidates by rank, and what stands for no peak in the places left."""
    T: tl.constexpr = tl.float64 if BITS == 64 else tl.float32
    KEY: tl.constexpr = tl.int64 if BITS == 64 else tl.int32
    i = first + tl.arange(0, BLOCK)
    none = tl.full((), 1, KEY) << (BITS - 1)
    key = tl.load(keys + i, mask=i < found, other=none)
    cell = tl.load(cells + i, mask=i < found, other=0)
    rank = i
    if not SORTED:
        rank = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, BLOCK, 16):
            j = start + tl.arange(0, 16)
            other = tl.load(keys + j, mask=j < found, other=none)[None, :]
            before = (other > key[:, None]) | ((other == key[:, None]) & (j[None, :] < i[:, None]))
            rank += tl.sum(before.to(tl.int32), 1)
    real = key != none
    area = tl.cast(height, tl.int64) * width
    plane = heatmap + cell // area * heatmap_c
    value = tl.load(plane + cell // width % height * heatmap_h + cell % width * heatmap_w, mask=real, other=0.0).to(T)
    if LOGITS:
        value = tl.where(real, 1 / (1 + tl.exp(-value)), 0.0)
    tl.store(score + rank, value.to(score.dtype.element_ty), mask=rank < k)
    tl.store(label + rank, tl.where(real, cell // area, -1), mask=rank < k)
    tl.store(index + rank, tl.where(real, cell % area, -1), mask=rank < k)


@triton.jit
def select_kernel(
    heatmap, heatmap_b, heatmap_c, heatmap_h, heatmap_w,
    keys, cells, largest,
    reaching, near_keys, near_cells, best_keys, best_cells,
    score, label, index,
    chunks, k, height, width,
    BITS: tl.constexpr, LOGITS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the best k of an image's candidates, k a chunk, by rank.

    Numbers go from thread to thread through device memory: `reaching` has the chunks that reach the floor, `near_` the
    candidates that do, and `best_` the best k of those seen.
    """
    KEY: tl.constexpr = tl.int64 if BITS == 64 else tl.int32
    none = tl.full((), 1, KEY) << (BITS - 1)
    lane = tl.arange(0, CHUNK)
    batch = tl.program_id(0).to(tl.int64)
    keys += batch * chunks * k
    cells += batch * chunks * k
    largest += batch * chunks
    reaching += batch * chunks
    near_keys += batch * chunks * k
    near_cells += batch * chunks * k
    best_keys += batch * k
    best_cells += batch * k

    # Of more than CHUNK chunks the first do: what k of them reach is a floor too.
    floor = kth_largest(tl.load(largest + lane, mask=lane < chunks, other=none), k, BITS)
    listed = tl.zeros((), tl.int32)
    for first in range(0, chunks, CHUNK):
        chunk = first + lane
        most = tl.load(largest + chunk, mask=chunk < chunks, other=none)
        kept = (most >= floor) & (most != none)
        slot = listed + tl.cumsum(kept.to(tl.int32), 0) - 1
        tl.store(reaching + slot, chunk, mask=kept)
        listed += tl.sum(kept.to(tl.int32), 0)
    tl.debug_barrier()

    near = tl.zeros((), tl.int32)
    for first in range(0, listed * k, CHUNK):
        candidate = first + lane
        inside = candidate < listed * k
        at = tl.load(reaching + candidate // k, mask=inside, other=0).to(tl.int64) * k + candidate % k
        key = tl.load(keys + at, mask=inside, other=none)
        kept = (key >= floor) & (key != none)
        slot = near + tl.cumsum(kept.to(tl.int32), 0) - 1
        tl.store(near_keys + slot, key, mask=kept)
        tl.store(near_cells + slot, tl.load(cells + at, mask=kept, other=0), mask=kept)
        near += tl.sum(kept.to(tl.int32), 0)

    for first in range(0, k, CHUNK):
        tl.store(best_keys + first + lane, none, mask=first + lane < k)
        tl.store(best_cells + first + lane, tl.zeros((CHUNK,), tl.int64), mask=first + lane < k)
    for first in range(0, near, CHUNK - k):
        tl.debug_barrier()
        new = first + lane - k
        known = lane < k
        here = (lane >= k) & (new < near)
        key = tl.where(
            known, tl.load(best_keys + lane, mask=known, other=none), tl.load(near_keys + new, mask=here, other=none)
        )
        cell = tl.where(
            known, tl.load(best_cells + lane, mask=known, other=0), tl.load(near_cells + new, mask=here, other=0)
        )
        tl.debug_barrier()
        write_best(key, cell, k, best_keys, best_cells, BITS)
    tl.debug_barrier()
    write_ranked(
        heatmap + batch * heatmap_b, heatmap_c, heatmap_h, heatmap_w,
        best_keys, best_cells, k,
        score + batch * k, label + batch * k, index + batch * k,
        0, k, height, width,
        BITS, False, LOGITS, BLOCK,
    )  # fmt: skip


@triton.jit
def write_sorted_kernel(
    heatmap, heatmap_b, heatmap_c, heatmap_h, heatmap_w,
    keys, cells, found,
    score, label, index,
    k, height, width,
    BITS: tl.constexpr, LOGITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the first of each image's `found` candidates, which come in order."""
    batch = tl.program_id(0).to(tl.int64)
    write_ranked(
        heatmap + batch * heatmap_b, heatmap_c, heatmap_h, heatmap_w,
        keys + batch * found, cells + batch * found, found,
        score + batch * k, label + batch * k, index + batch * k,
        tl.program_id(1) * BLOCK, k, height, width,
        BITS, True, LOGITS, BLOCK,
    )  # fmt: skip


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
    largest = label.new_empty((batch, chunks if select else 0), dtype=key_dtype)
    wrap_triton(peaks_kernel)[(batch * chunks,)](
        *(heatmap, *heatmap.stride(), keys, cells, largest, chunks, k, count, height, width),
        min(kernel_size, 2 * max(height, width) + 1),  # a window that covers the map from any cell
        BITS=bits,
        SELECT=select,
        CHUNK=_CHUNK,
        num_warps=_WARPS,
    )
    if select:
        reaching = label.new_empty((batch, chunks), dtype=torch.int32)
        wrap_triton(select_kernel)[(batch,)](
            *(heatmap, *heatmap.stride(), keys, cells, largest),
            *(reaching, torch.empty_like(keys), torch.empty_like(cells)),
            *(keys.new_empty((batch, k)), cells.new_empty((batch, k))),
            *(score, label, index, chunks, k, height, width),
            BITS=bits,
            LOGITS=logits,
            CHUNK=_CHUNK,
            BLOCK=max(padded(k), 16),
            num_warps=_WARPS,
        )
    else:
        keys, cells = torch.sort(keys, dim=1, descending=True, stable=True)
        wrap_triton(write_sorted_kernel)[(batch, triton.cdiv(k, _LARGEST_K))](
            *(heatmap, *heatmap.stride(), keys, cells, count, score, label, index, k, height, width),
            BITS=bits,
            LOGITS=logits,
            BLOCK=_LARGEST_K,
        )
    return score, label, index


autograd.register(NAMESPACE, "triton")
topk_peaks: Callable[..., tuple[Tensor, Tensor, Tensor]] = partial(autograd.topk_peaks, NAMESPACE)
