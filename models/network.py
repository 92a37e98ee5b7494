"""What every task's network is made of: a backbone, and one group of heads on each of its stacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.decode import MIN_SCALE, Flip
from models.heads import HeadConfig, HeadGroup
from models.reading import SparseReader
from models.recompute import Part


class Backbone(nn.Module):
    """Images (B, 3, H, W) to a list of features (B, feature_dim, H / stride, W / stride), one per stack, last the best.

    H and W must be multiples of `divisor`.
    """

    feature_dim: int
    stacks: int
    stride: int
    divisor: int

    @property
    def activation_checkpointing(self) -> bool:
        """Whether its parts compute their intermediate results again in the backward pass: less memory, more time."""
        return any(part.recompute for part in self._parts())

    @activation_checkpointing.setter
    def activation_checkpointing(self, on: bool) -> None:
        for part in self._parts():
            part.recompute = on

    def _parts(self) -> list[Part]:
        return [module for module in self.modules() if isinstance(module, Part)]


class Network(nn.Module):
    """A backbone with the same heads on each stack. Tasks derive from it and name what the heads' outputs mean.

    components: of its mixture; 0 is the single-mode base. min_scale: the least sigma of a component, in cells.
    """

    def __init__(
        self,
        backbone: Backbone,
        heads: Sequence[HeadConfig],
        head_width: int,
        components: int,
        min_scale: float = MIN_SCALE,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(HeadGroup(heads, backbone.feature_dim, head_width) for _ in range(backbone.stacks))
        self.components = components
        self.min_scale = min_scale

    @property
    def stride(self) -> int:
        """Input pixels to a cell of the outputs."""
        return self.backbone.stride

    @property
    def divisor(self) -> int:
        """The input's height and width must be multiples of it."""
        return self.backbone.divisor

    def check_images(self, images: Tensor) -> None:
        """Raises ValueError for any shape but (B, 3, H, W), and for an H or W that is not a multiple of `divisor`;
        TypeError for integer images."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images must have the shape (B, 3, H, W), not {tuple(images.shape)}")
        if not images.is_floating_point():
            raise TypeError(f"images must be floating point and normalised, not {images.dtype}")
        height, width = images.shape[2:]
        if height % self.divisor or width % self.divisor or not height or not width:
            raise ValueError(
                f"the images are {height} x {width} pixels (height x width); this network needs sides that are "
                f"multiples of {self.divisor}: pad or resize the images"
            )

    def features(self, images: Tensor) -> list[Tensor]:
        """The backbone's features, (B, feature_dim, H / stride, W / stride) for each stack.

        images: (B, 3, H, W), floating point, normalised; else as `check_images` says.
        """
        self.check_images(images)
        return self.backbone(images)

    def evaluate(self, images: Tensor, positions: Mapping[str, Tensor] | None = None) -> list[dict[str, Tensor]]:
        """Every head of every stack: a dict of named outputs for each stack.

        A head whose set of positions is in `positions` (name -> flat cells (B, N), -1 padding) is evaluated there alone
        and gives (B, C, N); every other head gives the whole map (B, C, h, w).
        """
        return [group(feature, positions) for group, feature in zip(self.heads, self.features(images), strict=True)]

    def read(self, images: Tensor, flip: Flip | None = None) -> SparseReader:
        """The last stack, to be read at chosen cells; with a flip the mirror images go through the backbone too."""
        if flip is not None:
            images = torch.cat((images, images.flip(3)))
        return SparseReader(self.heads[-1], self.features(images)[-1], views=1 if flip is None else 2)
