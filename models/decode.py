"""Decoding: boxes from peaks and what was predicted there, on the device and for a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from mdnkernels import Peaks, topk_peaks
from mdnkernels.models.reading import read_cells
from mdnkernels.models.regression import Flip, Mode, Regression, at_least_float32


class Detections(NamedTuple):
    """Holds boxes in order of descending score; where there are fewer than k, the rest is padding."""

    box: Tensor  # (B, k, 4) x1 y1 x2 y2 in input pixels; 0 for padding
    score: Tensor  # (B, k) 0 for padding
    label: Tensor  # (B, k) int64 class index; -1 for padding
    component: Tensor  # (B, k) int64 mixture component; -1 for padding and the single-mode base
    weight: Tensor  # (B, k) mixing weight of that component; 1 for the base, 0 for padding
    sigma: Tensor  # (B, k, 2) standard deviations of width and height in input pixels; 0 for padding and the base


def decode_detections(
    heatmap: Tensor,
    offset: Tensor,
    size: Sequence[Tensor],
    k: int = 100,
    *,
    regression: Regression,
    logits: bool = True,
    stride: int = 4,
    select: str = "weight",
    components: Sequence[int] | None = None,
) -> Detections:
    """Return the k best boxes of dense maps.

    heatmap: (B, Y, h, w), logits, or scores with logits=False. offset: (B, 2, h, w), x and y of the centre within its
    cell. size: the maps (B, ., h, w) of width and height, one for each of `regression.channels`. Offsets and sizes are
    in cells of `stride` input pixels. select, components: as in `Regression.mode`. Raises ValueError where the maps'
    shapes differ, and for a choice without a mixture.
    """
    for values in (offset, *size):
        if values.shape[0] != heatmap.shape[0] or values.shape[2:] != heatmap.shape[2:]:
            raise ValueError(
                f"a map has the shape {tuple(values.shape)}, which does not go with {tuple(heatmap.shape)}"
            )
    peaks = find_peaks(heatmap, k, logits=logits)
    at_peaks = {name: read_cells(maps, peaks.index) for name, maps in zip(regression.channels, size, strict=True)}
    extent = regression.mode(regression.read(at_peaks, peaks.label), select=select, components=components)
    return detections(peaks, read_cells(offset, peaks.index), extent, map_width=heatmap.shape[3], stride=stride)


def find_peaks(heatmap: Tensor, k: int, *, logits: bool = True) -> Peaks:
    """Return the k strongest local maxima of a heatmap (B, Y, h, w).

    Scores are at least float32: bfloat16 ties many.
    """
    heatmap = at_least_float32(heatmap)
    if torch.onnx.is_in_onnx_export():
        return peaks_in_onnx(heatmap, k, logits=logits)
    return topk_peaks(heatmap, k, logits=logits)


def peaks_in_onnx(heatmap: Tensor, k: int, *, logits: bool) -> Peaks:
    """Return what `mdnkernels.topk_peaks` does, of operations that ONNX has.

    ONNX has no stable sort, but its TopK takes equal values in the order of their places, as `topk_peaks` does; torch's
    own promises no order. A peak of -inf counts as none.
    """
    cells = heatmap.shape[2] * heatmap.shape[3]
    is_peak = max_pool2d(heatmap, 3, stride=1, padding=1) == heatmap
    value, place = torch.where(is_peak, heatmap, -torch.inf).flatten(1).topk(min(k, heatmap.shape[1] * cells))
    found = value > -torch.inf
    missing = (0, k - value.shape[1])
    score = torch.where(found, value.sigmoid() if logits else value, 0)
    label = torch.where(found, place.div(cells, rounding_mode="floor"), -1)
    index = torch.where(found, place % cells, -1)
    return Peaks(pad(score, missing), pad(label, missing, value=-1), pad(index, missing, value=-1))


def find_peaks_of_views(views: Sequence[Tensor], k: int) -> Peaks:
    """Return the k strongest peaks of heatmap logits (B, Y, h, w) in one view or two.

    One view is the images' own. With their mirror images', mirrored as they come, the mean of both scores counts.
    """
    if len(views) == 1:
        return find_peaks(views[0], k)
    first, second = (at_least_float32(view).sigmoid() for view in views)
    return find_peaks((first + second.flip(3)) / 2, k, logits=False)


def merge_views(views: Sequence[Mode], flip: Flip | None) -> Mode:
    """Join what the images and, with a flip, their mirror images predict into one prediction.

    views: the second turned back. flip: "average" takes the means of loc, scale and weight, and the first view's
    component. "stronger" takes everything from the view whose component weighs more, from the first where both weigh
    the same.
    """
    if flip is None:
        return views[0]
    first, second = views
    if flip == "average":
        return Mode(
            (first.loc + second.loc) / 2,
            (first.scale + second.scale) / 2,
            first.component,
            (first.weight + second.weight) / 2,
        )
    stronger = second.weight > first.weight
    return Mode(
        torch.where(stronger[:, None], second.loc, first.loc),
        torch.where(stronger[:, None], second.scale, first.scale),
        torch.where(stronger, second.component, first.component),
        torch.where(stronger, second.weight, first.weight),
    )


def detections(peaks: Peaks, offset: Tensor, extent: Mode, *, map_width: int, stride: int = 4) -> Detections:
    """Return boxes of peaks and of the regression there; padding gets its values here.

    extent: what the regression predicts of width and height. The rest is as in `boxes`.
    """
    found = peaks.label >= 0
    return Detections(
        box=boxes(peaks, offset, extent.loc, map_width=map_width, stride=stride),
        score=torch.where(found, peaks.score, 0),
        label=peaks.label,
        component=torch.where(found, extent.component, -1),
        weight=torch.where(found, extent.weight, 0),
        sigma=torch.where(found[:, None], extent.scale * stride, 0).transpose(1, 2),
    )


def boxes(peaks: Peaks, offset: Tensor, extent: Tensor, *, map_width: int, stride: int) -> Tensor:
    """Return x1 y1 x2 y2 in input pixels (B, k, 4), 0 for padding.

    peaks: score, label and index (B, k). offset, extent: (B, 2, k), the centre within its cell, width and height, in
    cells; what they hold at padding is not read. map_width: cells in a row of the map in which index counts. A negative
    width or height becomes 0.
    """
    centre = cell_corner(peaks.index, map_width) + at_least_float32(offset)
    half = extent.clamp(min=0) / 2
    box = torch.cat((centre - half, centre + half), dim=1) * stride
    return torch.where((peaks.label >= 0)[:, None], box, 0).transpose(1, 2)


def cell_corner(index: Tensor, map_width: int) -> Tensor:
    """Return x and y (..., 2, k) of flat cells (..., k)."""
    return torch.stack((index % map_width, index.div(map_width, rounding_mode="floor")), dim=-2)
