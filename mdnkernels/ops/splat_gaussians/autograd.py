"""splat_gaussians of a namespace."""

from __future__ import annotations

import torch
from torch import Tensor


def splat_gaussians_output(
    center: Tensor, radius: Tensor, label: Tensor, num_labels: int, height: int, width: int
) -> Tensor:
    return label.new_empty((label.shape[0], num_labels, height, width), dtype=torch.float32)


def register(namespace: str, backend: str) -> None:
    """Register the op's shapes. There is no gradient."""
    torch.library.register_fake(f"{namespace}::splat_gaussians", splat_gaussians_output)


def splat_gaussians(
    namespace: str, center: Tensor, radius: Tensor, label: Tensor, num_labels: int, size: tuple[int, int]
) -> Tensor:
    """See `mdnkernels.splat_gaussians`."""
    return getattr(torch.ops, namespace).splat_gaussians(center, radius, label, num_labels, *size)
