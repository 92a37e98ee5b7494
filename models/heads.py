"""Heads: what a network predicts at each cell of its feature map, evaluated everywhere or at chosen cells alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, ItemsView, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
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
    """Describes one head.

    name: of its output. channels: of its output. last_bias: initial value of the last layer's bias, None for PyTorch's
    own initialisation. positions: the name of the set of cells where its output is needed: `EVERYWHERE`, `CENTRES`
    (object centres in training, peaks in inference) or `KEYPOINTS` (the keypoints' cells, their heatmaps' peaks).
    """

    name: str
    channels: int
    last_bias: float | None = None
    positions: str = CENTRES


def heatmap_head(name: str, channels: int) -> HeadConfig:
    """Describe a head of heatmap logits that starts as background."""
    return HeadConfig(name, channels, last_bias=HEATMAP_BIAS, positions=EVERYWHERE)


class Head(nn.Module):
    """Applies conv 3x3, ReLU, conv 1x1 to a feature map.

    Under autocast the last of them stays in float32: bfloat16 would round a box of 100 cells to half a cell, and give
    neighbouring cells of a heatmap the same score.
    """

    def __init__(self, config: HeadConfig, feature_dim: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.hidden = nn.Conv2d(feature_dim, width, 3, padding=1)
        self.output = nn.Conv2d(width, config.channels, 1)
        if config.last_bias is not None:
            nn.init.constant_(cast(Tensor, self.output.bias), config.last_bias)

    def forward(self, feature: Tensor, index: Tensor | None = None) -> Tensor:
        """Turn a feature (B, feature_dim, h, w) into the map (B, channels, h, w), or into its values at cells alone.

        index: (B, N) int64 flat cells y * w + x, for (B, channels, N). Values and gradients are those of the map at
        these cells. At padding, -1, stands the head's answer to a zero patch, which no reader may count.
        """
        if index is None:
            return _without_autocast(self.output, F.relu(self.hidden(feature), inplace=True))
        return self.at_patches(gather_patches(feature, index))

    def at_patches(self, patches: Tensor) -> Tensor:
        """Turn patches (B, N, feature_dim * 9) of `gather_patches` into (B, channels, N).

        The two layers are the same, as matrix products.
        """
        hidden = F.relu(F.linear(patches, self.hidden.weight.flatten(1), self.hidden.bias))
        return _without_autocast(self._output_at_cells, hidden).transpose(1, 2)

    def _output_at_cells(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.output.weight.flatten(1), self.output.bias)


def _without_autocast(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Call a layer on at least float32 where autocast would have it in half precision."""
    device = x.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return layer(x)
    with torch.autocast(device, enabled=False):
        return layer(x.to(torch.promote_types(x.dtype, torch.float32)))


class HeadGroup(nn.Module):
    """Holds all heads that read one feature map, by name."""

    def __init__(self, configs: Sequence[HeadConfig], feature_dim: int, width: int) -> None:
        super().__init__()
        names = [config.name for config in configs]
        if len(set(names)) != len(names):
            raise ValueError(f"heads must have different names, not {names}")
        self.heads = nn.ModuleDict({config.name: Head(config, feature_dim, width) for config in configs})

    def items(self) -> ItemsView[str, Head]:
        """Return the heads by name, in order."""
        return cast("ItemsView[str, Head]", self.heads.items())

    def names(self, positions: str) -> list[str]:
        """Return the names of the heads whose output is needed at that set of positions."""
        return [name for name, head in self.items() if head.config.positions == positions]

    def forward(
        self, feature: Tensor, positions: Mapping[str, Tensor] | None = None, *, only: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Return each head's output for a feature (B, feature_dim, h, w).

        positions: name of a set -> its flat cells (B, N). The heads of such a set give (B, C, N), others (B, C, h, w).
        only: the names of the heads to evaluate; all of them when None.
        """
        positions = positions or {}
        patches: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        for name, head in self.items():
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
