"""splat_gaussians of the native library."""

from __future__ import annotations

import torch
from torch import Tensor

from mdnkernels.native import library


def splat_gaussians(center: Tensor, radius: Tensor, label: Tensor, num_labels: int, size: tuple[int, int]) -> Tensor:
    """See `mdnkernels.splat_gaussians`."""
    return torch.ops.mdnkernels.splat_gaussians(center, radius, label, num_labels, *size)


def _fake(center: Tensor, radius: Tensor, label: Tensor, num_labels: int, height: int, width: int) -> Tensor:
    return label.new_empty((label.shape[0], num_labels, height, width), dtype=torch.float32)


if library.problem is None:
    torch.library.register_fake("mdnkernels::splat_gaussians", _fake)
