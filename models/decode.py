"""From peaks and what was predicted there to boxes, on the device and for a whole batch.

Both ways come through `decode_peaks`: sparse inference, where the heads ran at the peaks alone, and dense maps, which
are read at the peaks first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mdnkernels import Peaks, mixture_mode, topk_peaks

# Sizes are mixtures over (width, height) with a sigma each; sigma is at least one cell.
SCALE_ACTIVATION = "elu"
MIN_SCALE = 1.0


class Mixture(NamedTuple):
    """M components over (width, height), in output cells, at positions *P: maps (h, w) or points (k,)."""

    logits: Tensor  # (B, M, *P)
    loc: Tensor  # (B, 2M, *P)
    scale: Tensor  # (B, 2M, *P), raw


class Detections(NamedTuple):
    """Boxes in order of descending score; where there are fewer than k, the rest is padding."""

    box: Tensor  # (B, k, 4) x1 y1 x2 y2 in input pixels; 0 for padding
    score: Tensor  # (B, k) 0 for padding
    label: Tensor  # (B, k) int64 class index; -1 for padding
    component: Tensor  # (B, k) int64 mixture component; -1 for padding and the single-mode base
    weight: Tensor  # (B, k) mixing weight of that component; 1 for the base, 0 for padding
    sigma: Tensor  # (B, k, 2) standard deviations of width and height in input pixels; 0 for padding and the base


def decode_detections(
    heatmap: Tensor,
    offset: Tensor,
    size: Tensor | Mixture,
    k: int = 100,
    *,
    logits: bool = True,
    stride: int = 4,
    select: str = "weight",
    components: Sequence[int] | None = None,
) -> Detections:
    """The k best boxes of dense maps.

    heatmap: (B, Y, h, w), logits, or scores with logits=False. offset: (B, 2, h, w), x and y of the centre within its
    cell. size: (B, 2, h, w), width and height, or a `Mixture` of maps. Offsets and sizes are in cells of `stride` input
    pixels. select, components: as in `mdnkernels.mixture_mode`. Raises ValueError where the maps' shapes differ.
    """
    maps = size if isinstance(size, Mixture) else (size,)
    for values in (offset, *maps):
        if values.shape[0] != heatmap.shape[0] or values.shape[2:] != heatmap.shape[2:]:
            raise ValueError(
                f"a map has the shape {tuple(values.shape)}, which does not go with {tuple(heatmap.shape)}"
            )
    peaks = find_peaks(heatmap, k, logits=logits)
    at_peaks = [read_cells(values, peaks.index) for values in maps]
    return decode_peaks(
        peaks,
        read_cells(offset, peaks.index),
        Mixture(*at_peaks) if isinstance(size, Mixture) else at_peaks[0],
        map_width=heatmap.shape[3],
        stride=stride,
        select=select,
        components=components,
    )


def find_peaks(heatmap: Tensor, k: int, *, logits: bool = True) -> Peaks:
    """The k strongest local maxima of a heatmap (B, Y, h, w), with scores of at least float32 (bfloat16 ties many)."""
    return topk_peaks(_at_least_float32(heatmap), k, logits=logits)


def decode_peaks(
    peaks: Peaks,
    offset: Tensor,
    size: Tensor | Mixture,
    *,
    map_width: int,
    stride: int = 4,
    select: str = "weight",
    components: Sequence[int] | None = None,
) -> Detections:
    """Boxes from peaks and the regression there.

    peaks: score, label and index (B, k). offset: (B, 2, k). size: (B, 2, k), or a `Mixture` of points; what they hold
    at padding is not read. map_width: cells in a row of the map in which index counts. A negative width or height
    becomes 0. Raises ValueError for `components` without a mixture.
    """
    score, label, index = peaks
    found = label >= 0
    if isinstance(size, Mixture):
        # Half-precision arithmetic would round a box of 400 pixels to whole pixels and worse.
        mode = mixture_mode(
            *(_at_least_float32(values) for values in size),
            select=select,
            components=components,
            scale_activation=SCALE_ACTIVATION,
            min_scale=MIN_SCALE,
        )
        extent, sigma, weight, component = mode.loc, mode.scale, mode.weight, mode.component
    elif components is not None:
        raise ValueError(f"components={list(components)} needs a mixture, and this is the single-mode base")
    else:
        extent = _at_least_float32(size)
        sigma, weight, component = torch.zeros_like(extent), torch.ones_like(extent[:, 0]), torch.full_like(index, -1)

    cell = torch.stack((index % map_width, index.div(map_width, rounding_mode="floor")), dim=1)
    centre = cell + _at_least_float32(offset)
    half = extent.clamp(min=0) / 2
    box = torch.cat((centre - half, centre + half), dim=1) * stride
    return Detections(
        box=torch.where(found[:, None], box, 0).transpose(1, 2),
        score=torch.where(found, score, 0),
        label=label,
        component=torch.where(found, component, -1),
        weight=torch.where(found, weight, 0),
        sigma=torch.where(found[:, None], sigma * stride, 0).transpose(1, 2),
    )


def read_cells(values: Tensor, index: Tensor) -> Tensor:
    """(B, C, h, w) at flat cells (B, k) to (B, C, k); padding reads the first cell, and the caller masks it."""
    cells = index.clamp(min=0)[:, None].expand(-1, values.shape[1], -1)
    return values.flatten(2).gather(2, cells)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
