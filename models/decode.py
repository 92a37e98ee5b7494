"""From peaks and what was predicted there to boxes, on the device and for a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mdnkernels import MixtureMode, Peaks, mixture_mode, topk_peaks
from models.reading import read_cells

# A mixture's sigma is ELU(raw) + 1 + min_scale, in cells.
SCALE_ACTIVATION = "elu"
MIN_SCALE = 1.0

# How the predictions of an image and of its mirror image become one: the mean of both, or that of the view whose
# component has the larger weight.
Flip = Literal["average", "stronger"]


class Mixture(NamedTuple):
    """M components over C dimensions, in output cells, at positions *P: maps (h, w) or points (k,)."""

    logits: Tensor  # (B, M, *P)
    loc: Tensor  # (B, M * C, *P)
    scale: Tensor  # (B, 2M, *P), raw, for x and y


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
    min_scale: float = MIN_SCALE,
) -> Detections:
    """The k best boxes of dense maps.

    heatmap: (B, Y, h, w), logits, or scores with logits=False. offset: (B, 2, h, w), x and y of the centre within its
    cell. size: (B, 2, h, w), width and height, or a `Mixture` of maps. Offsets and sizes are in cells of `stride` input
    pixels. select, components, min_scale: as in `mdnkernels.mixture_mode`. Raises ValueError where the maps' shapes
    differ, and for `components` without a mixture.
    """
    maps = size if isinstance(size, Mixture) else (size,)
    for values in (offset, *maps):
        if values.shape[0] != heatmap.shape[0] or values.shape[2:] != heatmap.shape[2:]:
            raise ValueError(
                f"a map has the shape {tuple(values.shape)}, which does not go with {tuple(heatmap.shape)}"
            )
    peaks = find_peaks(heatmap, k, logits=logits)
    at_peaks = [read_cells(values, peaks.index) for values in maps]
    extent = choose(
        Mixture(*at_peaks) if isinstance(size, Mixture) else at_peaks[0],
        select=select,
        components=components,
        min_scale=min_scale,
    )
    return detections(peaks, read_cells(offset, peaks.index), extent, map_width=heatmap.shape[3], stride=stride)


def find_peaks(heatmap: Tensor, k: int, *, logits: bool = True) -> Peaks:
    """The k strongest local maxima of a heatmap (B, Y, h, w), with scores of at least float32 (bfloat16 ties many)."""
    return topk_peaks(at_least_float32(heatmap), k, logits=logits)


def find_peaks_of_views(views: Sequence[Tensor], k: int) -> Peaks:
    """The peaks of heatmap logits (B, Y, h, w): the images' alone, or of the mean score with their mirror images'."""
    if len(views) == 1:
        return find_peaks(views[0], k)
    first, second = (at_least_float32(view).sigmoid() for view in views)
    return find_peaks((first + second.flip(3)) / 2, k, logits=False)


def of_class(values: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Class-specific values (B, K * num_classes, N), channel k * num_classes + y, at each point's class: (B, K, N).

    label: (B, N) int64; padding, -1, reads class 0.
    """
    per_class = values.unflatten(1, (-1, num_classes))
    chosen = label.clamp(min=0)[:, None, None].expand(-1, per_class.shape[1], 1, -1)
    return per_class.gather(2, chosen).squeeze(2)


def choose(
    values: Tensor | Mixture,
    *,
    select: str = "weight",
    components: Sequence[int] | None = None,
    min_scale: float = MIN_SCALE,
) -> MixtureMode:
    """What a mixture predicts at points, or what the base does, in the same form.

    values: a `Mixture` of points, or the base's (B, C, k), whose scale is 0, whose component is -1 and weight 1.
    Results are at least float32: half-precision arithmetic would round a box of 400 pixels to whole pixels and worse.
    Raises ValueError for `components` without a mixture.
    """
    if isinstance(values, Mixture):
        return mixture_mode(
            *(at_least_float32(part) for part in values),
            select=select,
            components=components,
            scale_activation=SCALE_ACTIVATION,
            min_scale=min_scale,
        )
    if components is not None:
        raise ValueError(f"components={list(components)} needs a mixture, and this is the single-mode base")
    loc = at_least_float32(values)
    weight = torch.ones_like(loc[:, 0])
    return MixtureMode(loc, torch.zeros_like(loc[:, :2]), torch.full_like(weight, -1, dtype=torch.int64), weight)


def merge_views(views: Sequence[MixtureMode], flip: Flip | None) -> MixtureMode:
    """One prediction from that of the images and, with a flip, that of their mirror images turned back.

    "average": means of loc, scale and weight; the component is the first view's. "stronger": all of the view whose
    component weighs more, the first's where they weigh the same.
    """
    if flip is None:
        return views[0]
    first, second = views
    if flip == "average":
        return MixtureMode(
            (first.loc + second.loc) / 2,
            (first.scale + second.scale) / 2,
            first.component,
            (first.weight + second.weight) / 2,
        )
    stronger = second.weight > first.weight
    return MixtureMode(
        torch.where(stronger[:, None], second.loc, first.loc),
        torch.where(stronger[:, None], second.scale, first.scale),
        torch.where(stronger, second.component, first.component),
        torch.where(stronger, second.weight, first.weight),
    )


def check_flip(flip: str | None, components: int) -> None:
    """Raises ValueError for an unknown way to join two views, or one that the model cannot take."""
    if flip not in (None, "average", "stronger"):
        raise ValueError(f"flip must be None, 'average' or 'stronger', not {flip!r}")
    if flip == "stronger" and components == 0:
        raise ValueError("flip='stronger' compares mixing weights, and this is the single-mode base")


def detections(peaks: Peaks, offset: Tensor, extent: MixtureMode, *, map_width: int, stride: int = 4) -> Detections:
    """Boxes from peaks and the regression there.

    extent: what `choose` gives, loc and scale (B, 2, k); the rest as in `boxes`.
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
    """(B, k, 4) x1 y1 x2 y2 in input pixels, 0 for padding.

    peaks: score, label and index (B, k). offset, extent: (B, 2, k), the centre within its cell, width and height, in
    cells; what they hold at padding is not read. map_width: cells in a row of the map in which index counts. A negative
    width or height becomes 0.
    """
    centre = cell_corner(peaks.index, map_width) + at_least_float32(offset)
    half = extent.clamp(min=0) / 2
    box = torch.cat((centre - half, centre + half), dim=1) * stride
    return torch.where((peaks.label >= 0)[:, None], box, 0).transpose(1, 2)


def cell_corner(index: Tensor, map_width: int) -> Tensor:
    """x and y of flat cells, (..., k) to (..., 2, k)."""
    return torch.stack((index % map_width, index.div(map_width, rounding_mode="floor")), dim=-2)


def at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
