"""gather_patches of the native library."""

from __future__ import annotations

import torch
from torch import Tensor

from mdnkernels.native import library
from mdnkernels.ops.gather_patches import autograd


def gather_patches(feature: Tensor, index: Tensor, kernel_size: int) -> Tensor:
    """See `mdnkernels.gather_patches`. `feature` is (B, C, H, W), `index` (B, N)."""
    return torch.ops.mdnkernels.gather_patches(feature, index, kernel_size)


if library.problem is None:
    autograd.register_gather_patches("mdnkernels")
