"""Object detection: CenterNet, with a mixture over box sizes in place of one size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from models.decode import Detections, Mixture, decode_detections, decode_peaks, find_peaks
from models.heads import CENTRES, EVERYWHERE, HeadConfig
from models.network import Backbone, Network

# sigmoid(-2.19) = 0.1: almost every cell is background, and the first steps must not be spent on learning that.
HEATMAP_BIAS = -2.19


def detection_heads(num_classes: int, components: int) -> list[HeadConfig]:
    """The heads of a detector; components=0 gives the single-mode base's `size`, M >= 1 a mixture's three heads."""
    heads = [
        HeadConfig("heatmap", num_classes, last_bias=HEATMAP_BIAS, positions=EVERYWHERE),
        HeadConfig("offset", 2),
    ]
    if components == 0:
        return [*heads, HeadConfig("size", 2)]
    return [
        *heads,
        HeadConfig("logits", components),
        HeadConfig("loc", 2 * components),
        HeadConfig("scale", 2 * components),
    ]


class Detector(Network):
    """A backbone with detection heads. `num_classes`, `components`, `stride` and `divisor` describe it."""

    def __init__(self, backbone: Backbone, head_width: int, num_classes: int, components: int) -> None:
        super().__init__(backbone, detection_heads(num_classes, components), head_width)
        self.num_classes = num_classes
        self.components = components

    def forward(self, images: Tensor, index: Tensor | None = None) -> list[dict[str, Tensor]]:
        """The outputs of every stack, for training and for looking at maps.

        images: (B, 3, H, W), normalised, H and W multiples of `divisor`. With h = H / 4 and w = W / 4, each dict holds
        "heatmap" (B, num_classes, h, w), logits; "offset" (B, 2, h, w); and "size" (B, 2, h, w) for the base, or
        "logits" (B, M, h, w), "loc" (B, 2M, h, w), "scale" (B, 2M, h, w) for M components; all in output cells.
        index: (B, N) int64 flat cells, -1 padding: all but the heatmap is evaluated there alone, as (B, ., N), with the
        values and gradients of the maps at these cells; what stands at padding must not be counted.
        """
        return self.evaluate(images, None if index is None else {CENTRES: index})

    @torch.no_grad()
    def predict(
        self, images: Tensor, *, k: int = 100, select: str = "weight", components: Sequence[int] | None = None
    ) -> Detections:
        """The k best boxes of each image, in pixels of the input, from the last stack with sparse heads.

        images: as in `forward`; eval mode is the caller's business. select, components: which component of the mixture
        gives the box, as in `mdnkernels.mixture_mode`; the base has no such choice, and `components` is a ValueError.
        """
        feature, heads = self.features(images)[-1], self.heads[-1]
        heatmap = heads(feature, only=["heatmap"])["heatmap"]
        peaks = find_peaks(heatmap, k)
        outputs = heads(feature, {CENTRES: peaks.index}, only=[name for name in heads.heads if name != "heatmap"])
        return decode_peaks(
            peaks,
            outputs["offset"],
            self.size_of(outputs),
            map_width=heatmap.shape[3],
            stride=self.stride,
            select=select,
            components=components,
        )

    def decode(
        self,
        outputs: Mapping[str, Tensor],
        *,
        k: int = 100,
        select: str = "weight",
        components: Sequence[int] | None = None,
    ) -> Detections:
        """What `predict` gives, from the dense maps of one stack (an entry of `forward` without index)."""
        return decode_detections(
            outputs["heatmap"],
            outputs["offset"],
            self.size_of(outputs),
            k,
            stride=self.stride,
            select=select,
            components=components,
        )

    def size_of(self, outputs: Mapping[str, Tensor]) -> Tensor | Mixture:
        """The part of one stack's outputs that says how large a box is."""
        if self.components == 0:
            return outputs["size"]
        return Mixture(outputs["logits"], outputs["loc"], outputs["scale"])
