"""splat_gaussians of the native library."""

from __future__ import annotations

import torch
from torch import Tensor

from mdnkernels.native import library
from mdnkernels.ops.splat_gaussians import autograd


def splat_gaussians(center: Tensor, radius: Tensor, label: Tensor, num_labels: int, size: tuple[int, int]) -> Tensor:
    """See `mdnkernels.splat_gaussians`."""
    return torch.ops.mdnkernels.splat_gaussians(center, radius, label, num_labels, *size)


if library.problem is None:
    autograd.register_splat_gaussians("mdnkernels")
