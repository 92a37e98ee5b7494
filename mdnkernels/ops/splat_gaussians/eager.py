"""Gaussian centre targets in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def splat_gaussians(center: Tensor, radius: Tensor, label: Tensor, num_labels: int, size: tuple[int, int]) -> Tensor:
    """See `mdnkernels.splat_gaussians`. Each object is the outer product of a row and a column."""
    height, width = size
    batch, count = label.shape
    heatmap = torch.zeros(batch, num_labels, height, width, device=center.device)
    if heatmap.numel() == 0 or count == 0:
        return heatmap
    sigma = (2 * radius + 1).to(heatmap.dtype).unsqueeze(-1) / 6

    def profile(centre: Tensor, length: int) -> Tensor:
        distance = torch.arange(length, device=center.device) - centre.unsqueeze(-1)  # (B, N, length)
        value = torch.exp(-distance.square().to(heatmap.dtype) / (2 * sigma.square()))
        return torch.where(distance.abs() <= radius.unsqueeze(-1), value, 0.0)

    column, row = profile(center[..., 0], width), profile(center[..., 1], height)
    blob = row.unsqueeze(-1) * column.unsqueeze(-2)  # (B, N, H, W)
    blob = torch.where((label >= 0)[:, :, None, None], blob, 0.0)
    where = label.clamp(min=0)[:, :, None, None].expand_as(blob)
    return heatmap.scatter_reduce(1, where, blob, "amax")
