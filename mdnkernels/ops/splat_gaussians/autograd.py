"""splat_gaussians of a namespace."""

from __future__ import annotations

import torch
from torch import Tensor


def splat_gaussians_output(
    center: Tensor, radius: Tensor, label: Tensor, num_labels: int, height: int, width: int
) -> Tensor:
    return label.new_empty((label.shape[0], num_labels, height, width), dtype=torch.float32)


def register_splat_gaussians(namespace: str) -> None:
    torch.library.register_fake(f"{namespace}::splat_gaussians", splat_gaussians_output)
