"""Top-k local maxima in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def topk_peaks(heatmap: Tensor, k: int, kernel_size: int, logits: bool) -> tuple[Tensor, Tensor, Tensor]:
    """See `mdnkernels.topk_peaks`. `heatmap` is (B, Y, H, W)."""
    batch, _, height, width = heatmap.shape
    cells = height * width
    if heatmap.numel() == 0:
        score = heatmap.new_zeros(batch, k)
        nothing = torch.full((batch, k), -1, dtype=torch.int64, device=heatmap.device)
        return score, nothing, nothing.clone()
    # A NaN spreads through max_pool2d and equals nothing: it is no peak, nor is any cell with one in its window.
    kernel_size = min(kernel_size, 2 * max(height, width) + 1)  # a window that covers the map from any cell
    peak = functional.max_pool2d(heatmap, kernel_size, stride=1, padding=kernel_size // 2) == heatmap
    peak, value = peak.flatten(1), heatmap.flatten(1)  # flat order is label, then index: the order of equal scores
    # A stable sort by value, then one by kind: what is no peak comes behind every peak, even one of value -inf.
    order = torch.sort(torch.where(peak, value, -torch.inf), dim=1, descending=True, stable=True).indices
    kind = torch.sort(peak.gather(1, order).to(torch.uint8), dim=1, descending=True, stable=True).indices
    best = order.gather(1, kind[:, :k])
    found = peak.gather(1, best)
    score = value.gather(1, best)
    if logits:
        score = torch.sigmoid(score)
    score = torch.where(found, score, 0.0)
    label = torch.where(found, best // cells, -1)
    index = torch.where(found, best % cells, -1)
    missing = k - best.shape[1]
    if missing > 0:
        score = functional.pad(score, (0, missing))
        label = functional.pad(label, (0, missing), value=-1)
        index = functional.pad(index, (0, missing), value=-1)
    return score, label, index
