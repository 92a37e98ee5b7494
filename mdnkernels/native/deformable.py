"""What a deformable convolution takes on the CPU: float32 alone, no gradients, for models/ and not in the table."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_taps(x: Tensor, offset: Tensor, mask: Tensor, first: int, last: int) -> Tensor:
    """Return the samples of the nine taps of the cells [first, last), times their mask: (last - first, 9 C).

    x: (B, H, W, C). offset: (B, H, W, 18), dy and dx of each tap in cells, from its place in a 3x3 window. mask:
    (B, H, W, 9). All are float32 and contiguous. A sample is interpolated bilinearly, and 0 outside. Cells count
    (b H + y) W + x.
    """
    return torch.ops.mdnkernels.sample_taps(x, offset, mask, first, last)
