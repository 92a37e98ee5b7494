"""Stacked hourglasses (Newell et al. 2016) in the form of CornerNet and CenterNet, of any depth, width and number."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from mdnkernels.models.layers import Residual, convolution, projection
from mdnkernels.models.modules import ModulesInOrder
from mdnkernels.models.network import Backbone
from mdnkernels.models.recompute import Layers, Part


@dataclass(frozen=True)
class HourglassConfig:
    """A member of the family.

    stacks: hourglasses one after another, each with its own output. dims, blocks: width and number of residual blocks
    of each resolution, from H / 4 down to the innermost, each half the last. stem_width: channels at H / 2.
    feature_dim: channels of the outputs.
    """

    stacks: int
    dims: tuple[int, ...]
    blocks: tuple[int, ...]
    stem_width: int
    feature_dim: int

    def __post_init__(self) -> None:
        if len(self.dims) != len(self.blocks) or len(self.dims) < 2:
            raise ValueError(
                f"dims and blocks need one entry for each of >= 2 resolutions, not {self.dims}, {self.blocks}"
            )
        if min(self.stacks, self.stem_width, self.feature_dim, *self.dims, *self.blocks) < 1:
            raise ValueError(f"every number of an hourglass must be at least 1: {self}")

    @property
    def depth(self) -> int:
        """Return how many times an hourglass halves its resolution."""
        return len(self.dims) - 1


HOURGLASS104 = HourglassConfig(
    stacks=2, dims=(256, 256, 384, 384, 384, 512), blocks=(2, 2, 2, 2, 2, 4), stem_width=128, feature_dim=256
)
HOURGLASS_SMALL = HourglassConfig(stacks=1, dims=(32, 64, 128, 192), blocks=(1, 1, 1, 1), stem_width=32, feature_dim=64)
HOURGLASS_TINY = HourglassConfig(stacks=1, dims=(32, 48, 64), blocks=(1, 1, 1), stem_width=16, feature_dim=48)


class HourglassLevel(nn.Module):
    """One resolution of an hourglass: a branch that stays, and a branch through everything coarser, added."""

    def __init__(self, dims: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        here, below = dims[:2]
        count = blocks[0]
        self.stay = _residuals([here] * (count + 1))
        self.down = _residuals([here] + [below] * count, stride=2)
        self.inner: nn.Module
        if len(dims) > 2:
            self.inner = HourglassLevel(dims[1:], blocks[1:])
        else:
            self.inner = _residuals([below] * (blocks[1] + 1))
        # The mirror image of `down`: the width changes in the last block, not in the first.
        self.up = _residuals([below] * count + [here])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, dims[0], h, w) to the same shape."""
        below = self.down.run(x)
        below = self.inner.run(below) if isinstance(self.inner, Layers) else self.inner(below)
        coarse = self.up.run(below)
        return self.stay.run(x) + F.interpolate(coarse, scale_factor=2.0, mode="nearest")


class Merge(Part):
    """Joins one stack's input and feature into the next stack's input."""

    def __init__(self, dim: int, feature_dim: int) -> None:
        super().__init__()
        self.from_input = projection(dim, dim)
        self.from_feature = projection(feature_dim, dim)
        self.residual = Residual(dim, dim)

    def forward(self, x: Tensor, feature: Tensor) -> Tensor:
        """Map x (B, dim, h, w) and feature (B, feature_dim, h, w) to (B, dim, h, w)."""
        return self.residual(F.relu(self.from_input(x) + self.from_feature(feature), inplace=True))


class Hourglass(Backbone):
    """Images (B, 3, H, W) to a list of features (B, feature_dim, H / 4, W / 4), one per stack."""

    stride = 4

    def __init__(self, config: HourglassConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_dim = config.feature_dim
        self.stacks = config.stacks
        self.divisor = self.stride * 2**config.depth
        dim = config.dims[0]
        self.stem = Layers(convolution(3, config.stem_width, 7, 2), Residual(config.stem_width, dim, stride=2))
        self.hourglasses = ModulesInOrder(HourglassLevel(config.dims, config.blocks) for _ in range(config.stacks))
        self.outputs = ModulesInOrder(convolution(dim, config.feature_dim, 3) for _ in range(config.stacks))
        self.merges = ModulesInOrder(Merge(dim, config.feature_dim) for _ in range(config.stacks - 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of images whose H and W are multiples of `divisor`, the last stack's at the end."""
        x = self.stem.run(images)
        features: list[Tensor] = []
        for stack, (hourglass, output) in enumerate(zip(self.hourglasses, self.outputs, strict=True)):
            features.append(output(hourglass(x)))
            if stack < len(self.merges):
                x = self.merges[stack].run(x, features[-1])
        return features


def _residuals(dims: list[int], stride: int = 1) -> Layers:
    """Make blocks from dims[0] to dims[1], from dims[1] to dims[2], ..., the first with the stride."""
    return Layers(*(Residual(a, b, stride if i == 0 else 1) for i, (a, b) in enumerate(pairwise(dims))))
