"""Windows of a feature map around chosen cells: public function and checks."""

from __future__ import annotations

import torch
from torch import Tensor

from mdnkernels import backends, checks

backends.add("gather_patches")


def gather_patches(feature: Tensor, index: Tensor, kernel_size: int = 3) -> Tensor:
    """Gather the zero-padded kernel_size x kernel_size window around each flat position.

    The layout is that of a convolution weight's `flatten(1)`, so that
    `F.linear(patches, conv.weight.flatten(1), conv.bias)` is that convolution (stride 1, same padding) at those cells.

    Args:
        feature: (B, C, H, W).
        index: (B, N), int64, y * W + x; -1 is padding and gives zeros.
        kernel_size: side of the window in cells, odd.

    Returns:
        (B, N, C * kernel_size^2), of the feature's dtype. Differentiable in `feature`; repeated positions and
        overlapping windows add their gradients.

    Raises:
        TypeError: feature is no float tensor, index not int64, kernel_size no int.
        ValueError: wrong shapes or devices, kernel_size even or below 1.
        IndexError: an index outside [-1, H * W).
    """
    checks.tensor("feature", feature, checks.FLOATS)
    if feature.ndim != 4:
        raise ValueError(f"feature must be (B, C, H, W), got shape {tuple(feature.shape)}")
    checks.tensor("index", index, (torch.int64,), feature)
    if index.ndim != 2 or index.shape[0] != feature.shape[0]:
        raise ValueError(f"index must be (B, N) with B = {feature.shape[0]}, got shape {tuple(index.shape)}")
    checks.kernel_size(kernel_size)
    cells = feature.shape[2] * feature.shape[3]
    checks.bounds("index", index, -1, cells, "the cells of feature; -1 is padding")
    return backends.select("gather_patches", feature)(feature, index, kernel_size)
