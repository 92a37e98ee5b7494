"""topk_peaks of the native library."""

from __future__ import annotations

import torch
from torch import Tensor

from mdnkernels.native import library


def topk_peaks(heatmap: Tensor, k: int, kernel_size: int, logits: bool) -> tuple[Tensor, Tensor, Tensor]:
    """See `mdnkernels.topk_peaks`."""
    return torch.ops.mdnkernels.topk_peaks(heatmap, k, kernel_size, logits)


def _fake(heatmap: Tensor, k: int, kernel_size: int, logits: bool) -> tuple[Tensor, Tensor, Tensor]:
    shape = (heatmap.shape[0], k)
    return (
        heatmap.new_empty(shape),
        heatmap.new_empty(shape, dtype=torch.int64),
        heatmap.new_empty(shape, dtype=torch.int64),
    )


if library.problem is None:
    torch.library.register_fake("mdnkernels::topk_peaks", _fake)
