"""DLA-34 (Yu et al. 2018) in the form of CenterNet: iterative aggregation with modulated deformable convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdnkernels.models.deformable import deformable_convolution
from mdnkernels.models.layers import Block, convolution, projection
from mdnkernels.models.modules import ModulesInOrder
from mdnkernels.models.network import Backbone
from mdnkernels.models.recompute import Layers, Part

# Channels at H, H / 2, ..., H / 32.
DIMS = (16, 32, 64, 128, 256, 512)


class DeformableConv(nn.Module):
    """A 3x3 convolution with predicted taps (Zhu et al. 2019, "Deformable ConvNets v2"), batch norm, ReLU.

    Each output cell reads its nine taps at predicted offsets, dy and dx, times predicted weights in (0, 1). Both
    predictors start at zero: a plain convolution at half weight.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_dim, in_dim, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        self.taps = nn.Conv2d(in_dim, 3 * 9, 3, padding=1)
        self.bn: nn.Module = nn.BatchNorm2d(out_dim)
        bound = 1 / math.sqrt(in_dim * 9)
        nn.init.uniform_(self.weight, -bound, bound)
        for parameter in self.taps.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_dim, h, w) to (B, out_dim, h, w)."""
        # The operator takes inputs of one dtype and has no bfloat16; autocast leaves it alone on the CPU.
        dtype = torch.promote_types(x.dtype, torch.float32)
        taps = self.taps(x).to(dtype)
        offset, mask = taps[:, :18], taps[:, 18:].sigmoid()
        y = deformable_convolution(x.to(dtype), offset, mask, self.weight.to(dtype), self.bias.to(dtype))
        return F.relu(self.bn(y.to(x.dtype)), inplace=True)


class Pair(Part):
    """Two blocks, whose outputs and those of earlier ones a 1x1 convolution joins.

    extra_dim: channels of what `forward` takes beside x; with keep_input the pooled input is joined too.
    """

    def __init__(
        self, in_dim: int, out_dim: int, stride: int = 1, extra_dim: int = 0, keep_input: bool = False
    ) -> None:
        super().__init__()
        self.stride = stride
        self.keep_input = keep_input
        self.first = Block(in_dim, out_dim, stride)
        self.second = Block(out_dim, out_dim)
        self.root = convolution(2 * out_dim + extra_dim + (in_dim if keep_input else 0), out_dim, 1)
        self.project: nn.Module = nn.Identity()
        if in_dim != out_dim:
            self.project = projection(in_dim, out_dim)

    def forward(self, x: Tensor, extra: Sequence[Tensor] = ()) -> Tensor:
        """Map (B, in_dim, h, w) to (B, out_dim, h / stride, w / stride); `extra` are of that size too."""
        pooled = _pool(x, self.stride)
        first = self.first(x, self.project(pooled))
        second = self.second(first, first)
        children = [second, first, *([pooled] if self.keep_input else []), *extra]
        return self.root(torch.cat(children, 1))


class PairOfPairs(Part):
    """Two pairs, the second of which also joins the pooled input and the first's output.

    The published network has a projection here whose output nothing reads. It stays, never computed and frozen, so that
    published files are read and written whole and DistributedDataParallel does not wait for its gradient.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.first = Pair(in_dim, out_dim, stride=2)
        self.second = Pair(out_dim, out_dim, extra_dim=in_dim + out_dim)
        self.unread = projection(in_dim, out_dim).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_dim, h, w) to (B, out_dim, h / 2, w / 2)."""
        first = self.first(x)
        return self.second(first, [_pool(x, 2), first])


class Aggregation(Part):
    """Brings feature maps to the resolution and width of the finest, each added to the one before (IDA).

    dims: channels of the maps, finest first. factors: how much coarser each is than the finest.
    """

    def __init__(self, out_dim: int, dims: Sequence[int], factors: Sequence[int]) -> None:
        super().__init__()
        self.project = ModulesInOrder(DeformableConv(dim, out_dim) for dim in dims[1:])
        self.upsample = ModulesInOrder(_bilinear_upsampling(out_dim, factor) for factor in factors[1:])
        self.node = ModulesInOrder(DeformableConv(out_dim, out_dim) for _ in dims[1:])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps, all (B, out_dim, h, w) of the first's size."""
        done = [maps[0]]
        for x, project, upsample, node in zip(maps[1:], self.project, self.upsample, self.node, strict=True):
            done.append(node(upsample(project(x)) + done[-1]))
        return done


class DLA34(Backbone):
    """Images (B, 3, H, W) to one feature (B, 64, H / 4, W / 4)."""

    stride = 4
    divisor = 32
    stacks = 1
    feature_dim = 64

    def __init__(self) -> None:
        super().__init__()
        self.levels = ModulesInOrder[Part](
            (
                Layers(convolution(3, 16, 7), convolution(16, 16, 3)),
                convolution(16, 32, 3, stride=2),
                Pair(32, 64, stride=2),
                PairOfPairs(64, 128),
                PairOfPairs(128, 256),
                Pair(256, 512, stride=2, keep_input=True),
            )
        )
        # Map by map from H / 16 up to H / 4: at each, all coarser maps, which have the width and resolution of the next
        # coarser one by then, come to its own.
        dims = DIMS[2:]
        self.up = ModulesInOrder(
            Aggregation(dims[start], (dims[start], *[dims[start + 1]] * (3 - start)), (1, *[2] * (3 - start)))
            for start in (2, 1, 0)
        )
        self.join = Aggregation(self.feature_dim, dims[:3], (1, 2, 4))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the one feature of images whose H and W are multiples of `divisor`."""
        maps: list[Tensor] = []
        x = images
        for level in self.levels:
            x = level.run(x)
            maps.append(x)
        maps = maps[2:]
        joined: list[Tensor] = []
        for start, aggregate in zip((2, 1, 0), self.up, strict=True):
            maps = [*maps[:start], *aggregate.run(maps[start:])]
            joined.insert(0, maps[-1])
        return [self.join.run(joined)[-1]]


def _pool(x: Tensor, stride: int) -> Tensor:
    return F.max_pool2d(x, stride, stride) if stride > 1 else x


def _bilinear_upsampling(dim: int, factor: int) -> nn.ConvTranspose2d:
    """Make a transposed convolution, each channel by itself, that starts as bilinear interpolation."""
    layer = nn.ConvTranspose2d(dim, dim, 2 * factor, factor, padding=factor // 2, groups=dim, bias=False)
    distance = (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor
    line = 1 - distance
    with torch.no_grad():
        layer.weight.copy_(line[:, None] * line)
    return layer
