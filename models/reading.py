"""Readers: they give one stack's heads at chosen cells, evaluated there alone or read from dense maps.

Decoding asks a reader for maps and for values at cells, and so need not know which of the two it is. A reader gives one
entry for each view of the images: the images themselves, and with flip testing their mirror images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from mdnkernels.models.heads import HeadGroup


class Reader(Protocol):
    """Gives decoding what it needs of one stack's heads."""

    def maps(self, name: str) -> list[Tensor]:
        """Return a head's map (B, C, h, w) in each view as the view has it: a mirror image's is mirrored."""

    def at(self, positions: str, index: Tensor, *, first_only: bool = False) -> list[dict[str, Tensor]]:
        """Return, for each view, the values (B, C, N) of the heads of a set of positions, by name.

        index: (B, N) cells of the first view. What stands at padding, -1, must not be used. first_only: leave the
        mirror images out.
        """


class SparseReader:
    """Evaluates heads at the cells alone."""

    def __init__(self, heads: HeadGroup, feature: Tensor, views: int = 1) -> None:
        """Take a feature (views * B, feature_dim, h, w), that of the mirror images after that of the images."""
        self.heads = heads
        self.feature = feature
        self.views = views

    def maps(self, name: str) -> list[Tensor]:
        return self._views_of(self.heads(self.feature, only=[name])[name])

    def at(self, positions: str, index: Tensor, *, first_only: bool = False) -> list[dict[str, Tensor]]:
        names = self.heads.names(positions)
        if first_only or self.views == 1:
            return [self.heads(self._views_of(self.feature)[0], {positions: index}, only=names)]
        index = torch.cat((index, mirrored_cells(index, self.feature.shape[3])))
        outputs = self.heads(self.feature, {positions: index}, only=names)
        views = {name: self._views_of(values) for name, values in outputs.items()}
        return [{name: values[view] for name, values in views.items()} for view in range(self.views)]

    def _views_of(self, values: Tensor) -> list[Tensor]:
        # torch.export cannot tell how many parts `chunk` gives of a batch of any size.
        return list(values.unflatten(0, (self.views, -1)).unbind(0))


class DenseReader:
    """Reads maps that were evaluated everywhere, of the images themselves."""

    def __init__(self, heads: HeadGroup, outputs: Mapping[str, Tensor]) -> None:
        """Take one stack's maps by name. Raise ValueError where a map is missing or their sizes differ."""
        missing = set(heads.heads) - set(outputs)
        if missing:
            raise ValueError(f"outputs lacks the maps {sorted(missing)}")
        sizes = {name: (outputs[name].shape[0], *outputs[name].shape[2:]) for name in heads.heads}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"the maps must be of one batch, height and width, not {sizes}")
        self.heads = heads
        self.outputs = outputs

    def maps(self, name: str) -> list[Tensor]:
        return [self.outputs[name]]

    def at(self, positions: str, index: Tensor, *, first_only: bool = False) -> list[dict[str, Tensor]]:
        return [{name: read_cells(self.outputs[name], index) for name in self.heads.names(positions)}]


def read_cells(values: Tensor, index: Tensor) -> Tensor:
    """Return maps (B, C, h, w) at flat cells (B, k) as (B, C, k).

    Padding reads the first cell, and the caller masks it.
    """
    cells = index.clamp(min=0)[:, None].expand(-1, values.shape[1], -1)
    return values.flatten(2).gather(2, cells)


def mirrored_cells(index: Tensor, map_width: int) -> Tensor:
    """Return where flat cells y * map_width + x lie in the mirror image; -1 stays."""
    column = index % map_width
    return torch.where(index < 0, index, index - column + (map_width - 1 - column))
