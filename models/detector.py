"""Object detection: CenterNet with a mixture over box sizes in place of one size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mdnkernels import Family
from mdnkernels.models.decode import Detections, detections, find_peaks_of_views, merge_views
from mdnkernels.models.heads import CENTRES, HeadConfig, heatmap_head
from mdnkernels.models.network import Backbone, Network
from mdnkernels.models.reading import DenseReader, Reader
from mdnkernels.models.regression import MIN_SCALE, Flip, Regression, make_regression


def size_regression(
    components: int, *, classes: int = 1, family: str | Family = "gaussian", min_scale: float = MIN_SCALE
) -> Regression:
    """Return the regression of a box's width and height. The arguments and errors are those of `make_regression`."""
    return make_regression("size", 2, components, head="size", classes=classes, family=family, min_scale=min_scale)


class Detector(Network):
    """Detects boxes: a backbone with heads for `num_classes` classes and the size of a box.

    regression: of `size_regression`, with one class, or with num_classes (the paper's control experiment). Raises
    ValueError for another one.
    """

    def __init__(self, backbone: Backbone, head_width: int, num_classes: int, regression: Regression) -> None:
        if regression.dims != 2 or regression.classes not in (1, num_classes):
            raise ValueError(f"a detector of {num_classes} classes regresses 2 dimensions, not {regression}")
        heads = [heatmap_head("heatmap", num_classes), HeadConfig("offset", 2), *regression.heads]
        super().__init__(backbone, heads, head_width, regression)
        self.num_classes = num_classes

    def forward(self, images: Tensor, index: Tensor | None = None) -> list[dict[str, Tensor]]:
        """Return the outputs of every stack, for training and for looking at maps.

        images: (B, 3, H, W), normalised, H and W multiples of `divisor`. With h = H / 4 and w = W / 4, each dict holds
        "heatmap" (B, num_classes, h, w), logits; "offset" (B, 2, h, w); and "size" (B, 2, h, w) for the base, or
        "logits" (B, M, h, w), "loc" (B, 2M, h, w), "scale" (B, 2M, h, w) for M components; all in output cells. Of a
        class-specific size these three (or "size") have num_classes channels for each of theirs
        (`regression.of_class`).
        index: (B, N) int64 flat cells, -1 padding. All but the heatmap is then evaluated there alone, as (B, ., N).
        Values and gradients are those of the maps at these cells; what stands at padding must not be counted.
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
        """Return the k best boxes of each image, in pixels of the input, from the last stack with sparse heads.

        images: as in `forward`; eval mode is the caller's business. select, components: which component of the mixture
        gives the box, or "mean", as in `Regression.mode`. The base has no such choice: another than the default is a
        ValueError.
        flip: look at the mirror images too. Scores are averaged, and the offset is the image's own. "average" averages
        the sizes, "stronger" takes the size from the view whose component has the larger weight; with "mean", which has
        no component, it is a ValueError.
        """
        self.regression.check_flip(flip, select)
        (found,) = self._decode(self.read(images, flip), k, select, [components], flip)
        return found

    @torch.no_grad()
    def predict_each(
        self, images: Tensor, *, k: int = 100, select: str = "weight", flip: Flip | None = None
    ) -> list[Detections]:
        """Return what `predict` gives, and then what it gives with each of the M components alone: M + 1 results.

        The network runs once. All results have the same peaks, with the same scores, in the same order. The arguments
        are those of `predict`; of the base there is one result.
        """
        self.regression.check_flip(flip, select)
        return self._decode(self.read(images, flip), k, select, self.regression.choices(), flip)

    def decode(
        self,
        outputs: Mapping[str, Tensor],
        *,
        k: int = 100,
        select: str = "weight",
        components: Sequence[int] | None = None,
    ) -> Detections:
        """Return what `predict` does from the dense maps of one stack, an entry of `forward` without index."""
        (found,) = self._decode(DenseReader(self.head_groups[-1], outputs), k, select, [components], None)
        return found

    def _decode(
        self, reader: Reader, k: int, select: str, choices: Sequence[Sequence[int] | None], flip: Flip | None
    ) -> list[Detections]:
        """Return a result for each choice of components."""
        heatmaps = reader.maps("heatmap")
        peaks = find_peaks_of_views(heatmaps, k)
        views = reader.at(CENTRES, peaks.index)
        values = [self.regression.read(view, peaks.label) for view in views]
        found = []
        for components in choices:
            modes = [self.regression.mode(of_view, select=select, components=components) for of_view in values]
            extent = merge_views(modes, flip)
            found.append(
                detections(peaks, views[0]["offset"], extent, map_width=heatmaps[0].shape[3], stride=self.stride)
            )
        return found
