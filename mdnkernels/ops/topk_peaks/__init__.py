"""The k strongest local maxima of a heatmap: public function and checks."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mdnkernels import backends, checks

backends.add("topk_peaks")


class Peaks(NamedTuple):
    """The peaks of a heatmap, each (B, k), strongest first."""

    score: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # the field's name, though tuple has a method of that name


def topk_peaks(heatmap: Tensor, k: int, *, kernel_size: int = 3, logits: bool = False) -> Peaks:
    """Return the k largest local maxima over all labels.

    A cell is a peak when nothing in its kernel_size x kernel_size window is larger; every cell of a plateau is one, as
    in a comparison with max-pooling. A NaN is no peak, nor is a cell with a NaN in its window.

    Args:
        heatmap: (B, Y, H, W), a score for each of Y labels at each cell.
        k: how many peaks to return, at least 1.
        kernel_size: side of the window in cells, odd.
        logits: compare raw logits and return their sigmoids.

    Returns:
        score (B, k), of the heatmap's dtype, descending; equal ones by label, then by index, on every backend.
        label (B, k), int64. index (B, k), int64, y * W + x. Fewer than k peaks: score 0, label -1, index -1.
        No gradient flows: peaks are for inference.

    Raises:
        TypeError: heatmap is no float tensor, k or kernel_size no int.
        ValueError: heatmap is not (B, Y, H, W), k is below 1, kernel_size is even or below 1.
        RuntimeError: on a GPU, an image has 2^32 cells or more, or 2^26 labels or more.

    Source: Zhou et al., "Objects as Points", 2019, section 4: peaks by max-pooling in place of non-maximum suppression.
    """
    checks.tensor("heatmap", heatmap, checks.FLOATS)
    if heatmap.ndim != 4:
        raise ValueError(f"heatmap must be (B, Y, H, W), got shape {tuple(heatmap.shape)}")
    checks.integer("k", k, 1)
    checks.kernel_size(kernel_size)
    heatmap = heatmap.detach()
    return Peaks(*backends.select("topk_peaks", heatmap)(heatmap, k, kernel_size, bool(logits)))
