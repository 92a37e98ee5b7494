"""Object detection: CenterNet, with a mixture over box sizes in place of one size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from models.decode import (
    MIN_SCALE,
    Detections,
    Flip,
    Mixture,
    check_flip,
    choose,
    detections,
    find_peaks_of_views,
    merge_views,
    of_class,
)
from models.heads import CENTRES, HeadConfig, heatmap_head, mixture_heads
from models.network import Backbone, Network
from models.reading import DenseReader, Reader


def detection_heads(num_classes: int, components: int, class_specific: bool = False) -> list[HeadConfig]:
    """The heads of a detector; components=0 gives the single-mode base's `size`, M >= 1 a mixture's three heads.

    class_specific: a size of its own for each class (the paper's control experiment).
    """
    copies = num_classes if class_specific else 1
    size = [HeadConfig("size", 2 * copies)] if components == 0 else mixture_heads(2, components, copies)
    return [heatmap_head("heatmap", num_classes), HeadConfig("offset", 2), *size]


class Detector(Network):
    """A backbone with detection heads, described by `num_classes`, `components` and `class_specific`."""

    def __init__(
        self,
        backbone: Backbone,
        head_width: int,
        num_classes: int,
        components: int,
        *,
        class_specific: bool = False,
        min_scale: float = MIN_SCALE,
    ) -> None:
        heads = detection_heads(num_classes, components, class_specific)
        super().__init__(backbone, heads, head_width, components, min_scale)
        self.num_classes = num_classes
        self.class_specific = class_specific

    def forward(self, images: Tensor, index: Tensor | None = None) -> list[dict[str, Tensor]]:
        """The outputs of every stack, for training and for looking at maps.

        images: (B, 3, H, W), normalised, H and W multiples of `divisor`. With h = H / 4 and w = W / 4, each dict holds
        "heatmap" (B, num_classes, h, w), logits; "offset" (B, 2, h, w); and "size" (B, 2, h, w) for the base, or
        "logits" (B, M, h, w), "loc" (B, 2M, h, w), "scale" (B, 2M, h, w) for M components; all in output cells. Of a
        class-specific size these three (or "size") have num_classes channels for each of theirs (`decode.of_class`).
        index: (B, N) int64 flat cells, -1 padding: all but the heatmap is evaluated there alone, as (B, ., N), with the
        values and gradients of the maps at these cells; what stands at padding must not be counted.
        """
        return self.evaluate(images, None if index is None else {CENTRES: index})

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        *,
        k: int = 100,
        select: str = "weight",
        components: Sequence[int] | None = None,
        flip: Flip | None = None,
    ) -> Detections:
        """The k best boxes of each image, in pixels of the input, from the last stack with sparse heads.

        images: as in `forward`; eval mode is the caller's business. select, components: which component of the mixture
        gives the box, as in `mdnkernels.mixture_mode`; the base has no such choice, and `components` is a ValueError.
        flip: also look at the mirror images. Scores are averaged; "average" averages the sizes too, "stronger" takes
        that of the view whose component has the larger weight; the offset is the image's own.
        """
        check_flip(flip, self.components)
        return self._decode(self.read(images, flip), k, select, components, flip)

    def decode(
        self,
        outputs: Mapping[str, Tensor],
        *,
        k: int = 100,
        select: str = "weight",
        components: Sequence[int] | None = None,
    ) -> Detections:
        """What `predict` gives, from the dense maps of one stack (an entry of `forward` without index)."""
        return self._decode(DenseReader(self.heads[-1], outputs), k, select, components, None)

    def _decode(
        self, reader: Reader, k: int, select: str, components: Sequence[int] | None, flip: Flip | None
    ) -> Detections:
        heatmaps = reader.maps("heatmap")
        peaks = find_peaks_of_views(heatmaps, k)
        views = reader.at(CENTRES, peaks.index)
        modes = [
            choose(self.size_of(view, peaks.label), select=select, components=components, min_scale=self.min_scale)
            for view in views
        ]
        extent = merge_views(modes, flip)
        return detections(peaks, views[0]["offset"], extent, map_width=heatmaps[0].shape[3], stride=self.stride)

    def size_of(self, outputs: Mapping[str, Tensor], label: Tensor) -> Tensor | Mixture:
        """What one stack's outputs (B, ., N), at points of the classes `label` (B, N), say about the size of a box."""
        return read_size(outputs, self.components, label, self.num_classes if self.class_specific else None)


def read_size(
    outputs: Mapping[str, Tensor], components: int, label: Tensor, num_classes: int | None
) -> Tensor | Mixture:
    """The size in one stack's outputs (B, ., N) at points of the classes `label` (B, N): (B, 2, N), or a mixture.

    num_classes: of a class-specific size; None where one serves all classes.
    """
    values = [outputs[name] for name in (Mixture._fields if components else ("size",))]
    if num_classes is not None:
        values = [of_class(value, label, num_classes) for value in values]
    return Mixture(*values) if components else values[0]
