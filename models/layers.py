"""The layers that backbones share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.recompute import Layers


class Block(nn.Module):
    """Two 3x3 convolutions around a skip connection that the caller provides."""

    def __init__(self, in_dim: int, out_dim: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, out_dim, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_dim)
        self.conv2 = nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_dim)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """x (B, in_dim, h, w) and skip (B, out_dim, h / stride, w / stride) to the shape of skip."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + skip, inplace=True)


class Residual(Block):
    """A block whose skip connection is its own: the input, or a 1x1 projection where the shape changes."""

    def __init__(self, in_dim: int, out_dim: int, stride: int = 1) -> None:
        super().__init__(in_dim, out_dim, stride)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or in_dim != out_dim:
            self.skip = projection(in_dim, out_dim, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_dim, h, w) to (B, out_dim, h / stride, w / stride)."""
        return super().forward(x, self.skip(x))


def convolution(in_dim: int, out_dim: int, kernel_size: int, stride: int = 1) -> Layers:
    """A convolution that keeps the size but for its stride, batch norm, ReLU."""
    return Layers(
        nn.Conv2d(in_dim, out_dim, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_dim),
        nn.ReLU(inplace=True),
    )


def projection(in_dim: int, out_dim: int, stride: int = 1) -> nn.Sequential:
    """A 1x1 convolution and batch norm."""
    return nn.Sequential(nn.Conv2d(in_dim, out_dim, 1, stride, bias=False), nn.BatchNorm2d(out_dim))
