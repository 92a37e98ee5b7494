"""The layers that backbones share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mdnkernels.models.recompute import Layers


class ConvolutionPair(nn.Module):
    """Two 3x3 convolutions with batch norms, and something that is added before the last ReLU."""

    def __init__(self, in_dim: int, out_dim: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, out_dim, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_dim)
        self.conv2 = nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_dim)

    def add_to(self, skip: Tensor, x: Tensor) -> Tensor:
        """Add what x (B, in_dim, h, w) becomes to skip (B, out_dim, h / stride, w / stride); give the ReLU of it."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + skip, inplace=True)


class Block(ConvolutionPair):
    """Two convolutions around a skip connection that the caller provides."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map x (B, in_dim, h, w) and skip (B, out_dim, h / stride, w / stride) to the shape of skip."""
        return self.add_to(skip, x)


class Residual(ConvolutionPair):
    """Two convolutions around a skip connection of their own: the input, or its 1x1 projection to another shape."""

    def __init__(self, in_dim: int, out_dim: int, stride: int = 1) -> None:
        super().__init__(in_dim, out_dim, stride)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or in_dim != out_dim:
            self.skip = projection(in_dim, out_dim, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_dim, h, w) to (B, out_dim, h / stride, w / stride)."""
        return self.add_to(self.skip(x), x)


def convolution(in_dim: int, out_dim: int, kernel_size: int, stride: int = 1) -> Layers:
    """Make a convolution that keeps the size but for its stride, with batch norm and ReLU."""
    return Layers(
        nn.Conv2d(in_dim, out_dim, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_dim),
        nn.ReLU(inplace=True),
    )


def projection(in_dim: int, out_dim: int, stride: int = 1) -> nn.Sequential:
    """Make a 1x1 convolution with batch norm."""
    return nn.Sequential(nn.Conv2d(in_dim, out_dim, 1, stride, bias=False), nn.BatchNorm2d(out_dim))
