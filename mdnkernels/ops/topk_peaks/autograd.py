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


def register(namespace: str, backend: str) -> None:
    """Register the op's shapes. Peaks are for inference: there is no gradient."""
    torch.library.register_fake(f"{namespace}::topk_peaks", topk_peaks_outputs)


def topk_peaks(
    namespace: str, heatmap: Tensor, k: int, kernel_size: int, logits: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See `mdnkernels.topk_peaks`. `heatmap` is (B, Y, H, W)."""
    return getattr(torch.ops, namespace).topk_peaks(heatmap, k, kernel_size, logits)
