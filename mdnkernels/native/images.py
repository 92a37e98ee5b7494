"""What loading and normalising images takes on the CPU: uint8 alone, no gradients, for train/ and not in the table."""

from __future__ import annotations

import torch
from torch import Tensor


def resample_window(
    image: Tensor, step: tuple[float, float], begin: tuple[float, float], size: tuple[int, int]
) -> Tensor:
    """Return an image's window with the upper left corner `begin` at another size: bilinear, black outside the image.

    image: (h, w, 3) uint8, contiguous. step: image pixels per output pixel, x and y; negative mirrors. begin: x and y.
    size: (H, W) of the output. Gives (H, W, 3) uint8. The weights are in 128ths: beside exact arithmetic a byte can be
    off by 2.5 where neighbours differ most.
    """
    return torch.ops.mdnkernels.resample_window(image, step[0], begin[0], step[1], begin[1], *size)


def channel_sums(images: Tensor) -> Tensor:
    """Return the sum of each channel, (B, 3) int64, of images (B, H, W, 3) uint8, contiguous."""
    return torch.ops.mdnkernels.channel_sums(images)


def mix_channels(images: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Return the (B, 3, 3) matrix times each pixel of (B, H, W, 3) uint8, contiguous, plus the (B, 3) offset.

    Matrix and offset are float32. Gives (B, 3, H, W) float32, contiguous.
    """
    return torch.ops.mdnkernels.mix_channels(images, matrix, offset)
