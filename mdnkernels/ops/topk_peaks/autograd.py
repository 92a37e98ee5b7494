"""topk_peaks of a namespace."""

from __future__ import annotations

import torch
from torch import Tensor


def topk_peaks_outputs(heatmap: Tensor, k: int, kernel_size: int, logits: bool) -> tuple[Tensor, Tensor, Tensor]:
    shape = (heatmap.shape[0], k)
    return (
        heatmap.new_empty(shape),
        heatmap.new_empty(shape, dtype=torch.int64),
        heatmap.new_empty(shape, dtype=torch.int64),
    )


def register_topk_peaks(namespace: str) -> None:
    """Register the op's shapes. Peaks are for inference: there is no gradient."""
    torch.library.register_fake(f"{namespace}::topk_peaks", topk_peaks_outputs)
