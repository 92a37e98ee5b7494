"""Windows around chosen cells in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_patches(feature: Tensor, index: Tensor, kernel_size: int) -> Tensor:
    """See `mdnkernels.gather_patches`. `feature` is (B, C, H, W), `index` (B, N)."""
    batch, channels, height, width = feature.shape
    points = index.shape[1]
    reach = torch.arange(kernel_size, device=index.device) - kernel_size // 2
    row = index.div(width, rounding_mode="floor").unsqueeze(-1) + reach  # (B, N, k)
    column = index.remainder(width).unsqueeze(-1) + reach
    inside_row = (row >= 0) & (row < height) & (index >= 0).unsqueeze(-1)
    inside_column = (column >= 0) & (column < width)
    inside = (inside_row.unsqueeze(-1) & inside_column.unsqueeze(-2)).flatten(1)  # (B, N * k * k)
    cell = (row.unsqueeze(-1) * width + column.unsqueeze(-2)).flatten(1)
    cell = torch.where(inside, cell, 0)
    if feature.numel() == 0:
        return feature.sum().expand(batch, points, channels * kernel_size**2).contiguous()  # zeros, differentiable
    patch = feature.flatten(2).gather(2, cell.unsqueeze(1).expand(-1, channels, -1))  # (B, C, N * k * k)
    patch = torch.where(inside.unsqueeze(1), patch, 0.0)
    return patch.view(batch, channels, points, kernel_size**2).transpose(1, 2).flatten(2)
