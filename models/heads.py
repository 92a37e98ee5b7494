"""Heads: what a network predicts at each cell of its feature map, evaluated everywhere or at chosen cells alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from mdnkernels import gather_patches

EVERYWHERE = "everywhere"
CENTRES = "centres"
KEYPOINTS = "keypoints"

# sigmoid(-2.19) = 0.1: almost every cell is background, and the first steps must not be spent on learning that.
HEATMAP_BIAS = -2.19


@dataclass(frozen=True)
class HeadConfig:
    """One head.

    name: of its output. channels: of its output. last_bias: initial value of the last layer's bias, None for PyTorch's
    own initialisation. positions: the name of the set of cells where its output is needed: `EVERYWHERE`, `CENTRES`
    (object centres in training, peaks in inference) or `KEYPOINTS` (the keypoints' cells, their heatmaps' peaks).
    """

    name: str
    channels: int
    last_bias: float | None = None
    positions: str = CENTRES


def heatmap_head(name: str, channels: int) -> HeadConfig:
    """A head of heatmap logits, which starts as background."""
    return HeadConfig(name, channels, last_bias=HEATMAP_BIAS, positions=EVERYWHERE)


def mixture_heads(dims: int, components: int, copies: int = 1) -> list[HeadConfig]:
    """The three heads of a mixture over `dims` dimensions, x and y in turn: a raw scale each for x and y.

    Channels: logits m, loc m * dims + d, scale m * 2 + (x or y); with copies, each of these times copies + copy.
    """
    return [
        HeadConfig("logits", components * copies),
        HeadConfig("loc", components * dims * copies),
        HeadConfig("scale", components * 2 * copies),
    ]


class Head(nn.Module):
    """conv 3x3, ReLU, conv 1x1."""

    def __init__(self, config: HeadConfig, feature_dim: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.hidden = nn.Conv2d(feature_dim, width, 3, padding=1)
        self.output = nn.Conv2d(width, config.channels, 1)
        if config.last_bias is not None:
            nn.init.constant_(self.output.bias, config.last_bias)

    def forward(self, feature: Tensor, index: Tensor | None = None) -> Tensor:
        """feature (B, feature_dim, h, w) to the map (B, channels, h, w), or to (B, channels, N) at index (B, N) alone.

        index: int64 flat cells y * w + x; -1 is padding, whose output is the head's answer to a zero patch and must not
        be counted by whoever reads it. The values and all gradients are those of the map at these cells.
        """
        if index is None:
            return self.output(F.relu(self.hidden(feature)))
        return self.at_patches(gather_patches(feature, index))

    def at_patches(self, patches: Tensor) -> Tensor:
        """patches (B, N, feature_dim * 9) of `gather_patches` to (B, channels, N): the same two layers as products."""
        hidden = F.relu(F.linear(patches, self.hidden.weight.flatten(1), self.hidden.bias))
        return F.linear(hidden, self.output.weight.flatten(1), self.output.bias).transpose(1, 2)


class HeadGroup(nn.Module):
    """All heads that read one feature map, by name."""

    def __init__(self, configs: Sequence[HeadConfig], feature_dim: int, width: int) -> None:
        super().__init__()
        names = [config.name for config in configs]
        if len(set(names)) != len(names):
            raise ValueError(f"heads must have different names, not {names}")
        self.heads = nn.ModuleDict({config.name: Head(config, feature_dim, width) for config in configs})

    def names(self, positions: str) -> list[str]:
        """The heads whose output is needed at that set of positions."""
        return [name for name, head in self.heads.items() if head.config.positions == positions]

    def forward(
        self, feature: Tensor, positions: Mapping[str, Tensor] | None = None, *, only: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """feature (B, feature_dim, h, w) to each head's output.

        positions: name of a set -> its flat cells (B, N). The heads of such a set give (B, C, N), others (B, C, h, w).
        only: the names of the heads to evaluate; all of them when None.
        """
        positions = positions or {}
        patches: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            where = head.config.positions
            if only is not None and name not in only:
                continue
            if where in positions:
                # Heads of one set read the same windows: gathered once, and their gradients scattered once.
                if where not in patches:
                    patches[where] = gather_patches(feature, positions[where])
                outputs[name] = head.at_patches(patches[where])
            else:
                outputs[name] = head(feature)
        return outputs
