"""topk_peaks of the native library."""

from __future__ import annotations

import torch
from torch import Tensor

from mdnkernels.native import library
from mdnkernels.ops.topk_peaks import autograd


def topk_peaks(heatmap: Tensor, k: int, kernel_size: int, logits: bool) -> tuple[Tensor, Tensor, Tensor]:
    """See `mdnkernels.topk_peaks`."""
    return torch.ops.mdnkernels.topk_peaks(heatmap, k, kernel_size, logits)


if library.problem is None:
    autograd.register_topk_peaks("mdnkernels")
