"""Colour augmentation and normalisation of a whole batch on the device, in one pass over the pixels.

CenterNet's jitter is linear in the pixel: brightness scales it, contrast blends it with the image's mean grey,
saturation with its own grey, lighting adds a constant, and so are all of them together and the normalisation after
them. So each image needs one 3 x 3 matrix and one offset, worked out from its parameters and its mean grey.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from mdnkernels import native
from mdnkernels.train.data.transforms import COLOUR_ORDERS

# CenterNet's constants, RGB.
MEAN = (0.47026115, 0.44719302, 0.40789654)
STD = (0.27809835, 0.27408164, 0.28863828)
# ITU-R BT.601, as OpenCV's grey.
GREY = (0.299, 0.587, 0.114)
# Standard deviations and directions (columns; rows are R, G, B) of the principal axes of colour in natural images.
LIGHTING_SCALE = (0.2141788, 0.01817699, 0.00341571)
LIGHTING_AXES = (
    (-0.56089297, 0.71832671, 0.41158938),
    (-0.5832747, 0.00994535, -0.81221408),
    (-0.58752847, -0.69563484, 0.41340352),
)


def normalise(images: Tensor, colour: Tensor | None = None) -> Tensor:
    """Jitter the colours and normalise: (B, 3, H, W) float32, (x / 255 - mean) / std, as the network takes it.

    images: (B, 3, H, W) uint8, RGB. colour: (B, 7) float32 on the same device, as `draw_augmentation` draws it; None
    leaves the colours as they are.
    Source: Zhou et al., "Objects as Points", 2019, and its code's `color_aug`.
    """
    std = _constant(STD, images.device)
    offset = -_constant(MEAN, images.device).expand(len(images), 3)
    matrix = torch.eye(3, device=images.device).expand(len(images), 3, 3)
    if colour is not None:
        grey = _constant(GREY, images.device)
        own, of_grey, of_mean = _blend(colour)
        matrix = own[:, None, None] * matrix + of_grey[:, None, None] * grey
        axes = _constant(LIGHTING_AXES, images.device)
        lighting = (colour[:, 4:] * _constant(LIGHTING_SCALE, images.device)) @ axes.T
        mean_grey = _channel_means(images) @ grey / 255
        offset = offset + lighting + (of_mean * mean_grey)[:, None]
    return _mix_channels(images, matrix / (255 * std[:, None]), offset / std)


@functools.cache
def _constant(values: Any, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a tensor of constants, copied to the device once: each copy from the host would wait for the device."""
    return torch.tensor(values, dtype=dtype, device=device)


def _channel_means(images: Tensor) -> Tensor:
    """Return the mean of each channel, (B, 3) float32."""
    if _is_native(images):
        return native.channel_sums(_interleaved(images)).float() / (images.shape[2] * images.shape[3])
    return images.float().mean((2, 3))


def _mix_channels(images: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Multiply each pixel by the (B, 3, 3) matrix and add the (B, 3) offset; (B, 3, H, W) float32, contiguous."""
    if _is_native(images):
        return native.mix_channels(_interleaved(images), matrix, offset)
    return torch.baddbmm(offset[:, :, None], matrix, images.float().flatten(2)).view(images.shape)


def _is_native(images: Tensor) -> bool:
    return native.problem is None and images.device.type == "cpu"


def _interleaved(images: Tensor) -> Tensor:
    """Reorder to (B, H, W, 3), contiguous; this copies nothing where `collate` made the batch."""
    return images.permute(0, 2, 3, 1).contiguous()


def _blend(colour: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the shares of the pixel, of its grey and of the image's mean grey in the jittered pixel, (B,) each.

    A factor a of contrast (saturation) makes a x + (1 - a) g of x, g the mean grey (grey) of the image before any
    jitter; every operation after it scales that g by its own factor.
    """
    factors = colour[:, :3]
    order = _constant(COLOUR_ORDERS, colour.device, torch.int64)[colour[:, 3].long()]  # (B, 3) operation at each place
    in_order = factors.gather(1, order)
    # Product of the factors that come after each place, brought back to brightness, contrast, saturation.
    after = torch.stack((in_order[:, 1] * in_order[:, 2], in_order[:, 2], torch.ones_like(in_order[:, 2])), dim=1)
    later = torch.empty_like(after).scatter_(1, order, after)
    return factors.prod(1), (1 - factors[:, 2]) * later[:, 2], (1 - factors[:, 1]) * later[:, 1]
