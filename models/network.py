"""Networks of every task: a backbone, and one group of heads on each of its stacks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mdnkernels.models.heads import HeadConfig, HeadGroup
from mdnkernels.models.reading import SparseReader
from mdnkernels.models.recompute import Part
from mdnkernels.models.regression import Flip, Regression


class Backbone(nn.Module):
    """Turns images (B, 3, H, W) into a list of features (B, feature_dim, H / stride, W / stride), one for each stack.

    The last stack's are the best. H and W must be multiples of `divisor`.
    """

    feature_dim: int
    stacks: int
    stride: int
    divisor: int

    @property
    def activation_checkpointing(self) -> bool:
        """Whether its parts compute their intermediate results again in the backward pass.

        That takes less memory and more time.
        """
        return any(part.recompute for part in self._parts())

    @activation_checkpointing.setter
    def activation_checkpointing(self, on: bool) -> None:
        for part in self._parts():
            part.recompute = on

    def _parts(self) -> list[Part]:
        return [module for module in self.modules() if isinstance(module, Part)]


class Network(nn.Module):
    """Joins a backbone with the same heads on each stack. Tasks derive from it and say what the heads' outputs mean.

    regression: what it regresses at each object. Decoding, criterion and log read it here.
    """

    def __init__(
        self,
        backbone: Backbone,
        heads: Sequence[HeadConfig],
        head_width: int,
        regression: Regression,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(HeadGroup(heads, backbone.feature_dim, head_width) for _ in range(backbone.stacks))
        self.regression = regression
        self._input_is_known = False

    @property
    def components(self) -> int:
        """The components of its mixture; 0 for the single-mode base."""
        return self.regression.components

    @property
    def head_groups(self) -> Sequence[HeadGroup]:
        """The heads of each stack; the last stack's predict."""
        return cast("Sequence[HeadGroup]", self.heads)

    @property
    def stride(self) -> int:
        """Input pixels to a cell of the outputs."""
        return self.backbone.stride

    @property
    def divisor(self) -> int:
        """What the input's height and width must be multiples of."""
        return self.backbone.divisor

    def check_images(self, images: Tensor) -> None:
        """Raise an error for images that the network cannot take.

        ValueError: any shape but (B, 3, H, W), and an H or W that is no multiple of `divisor`. TypeError: integers.
        """
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

    @torch.no_grad()
    def start_regression(self, biases: Mapping[str, Tensor], weight_factor: float = 0.1) -> None:
        """Let the regression of every stack begin at given values, whatever the image.

        biases: of the last layers of its heads, by the heads' names, as `Regression.start` gives them. weight_factor:
        of these layers' weights: with small ones each cell begins near the biases. Weights of the logits stay as they
        are: small ones would keep the choice's gradient from the features. Raises ValueError for a missing head,
        another one, or another number of channels; nothing is changed then.
        """
        wanted = {head.name: head.channels for head in self.regression.heads}
        given = {name: bias.numel() for name, bias in biases.items()}
        if given != wanted:
            raise ValueError(f"the heads of {self.regression} have the channels {wanted}, the biases {given}")
        for group in self.head_groups:
            for name, head in group.items():
                if name in biases:
                    cast("Tensor", head.output.bias).copy_(biases[name])
                    if name != "logits":
                        head.output.weight.mul_(weight_factor)

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the backbone's features, (B, feature_dim, H / stride, W / stride) for each stack.

        images: (B, 3, H, W), floating point, normalised. Others raise the errors of `check_images`.
        """
        self.check_images(images)
        return self.backbone(images)

    def evaluate(self, images: Tensor, positions: Mapping[str, Tensor] | None = None) -> list[dict[str, Tensor]]:
        """Evaluate every head of every stack; return a dict of named outputs for each stack.

        positions: name of a set -> its flat cells (B, N), -1 padding. A head of such a set is evaluated there alone and
        gives (B, C, N). Every other head gives the whole map (B, C, h, w).
        """
        return [
            group(feature, positions) for group, feature in zip(self.head_groups, self.features(images), strict=True)
        ]

    def read(self, images: Tensor, flip: Flip | None = None) -> SparseReader:
        """Return the last stack, to be read at chosen cells.

        With a flip the mirror images go through the backbone too. The first images of a network that look as if they
        were not normalised are warned of.
        """
        self._warn_of_other_scale(images)
        if flip is not None:
            images = torch.cat((images, images.flip(3)))
        return SparseReader(self.head_groups[-1], self.features(images)[-1], views=1 if flip is None else 2)

    def _warn_of_other_scale(self, images: Tensor) -> None:
        """Warn where the first images that are predicted hold x / 255, or x: the network would find next to nothing.

        Of normalised photographs hardly one has neither a value below 0 nor one above 1. Only the first are looked at:
        to read them waits for the device. A graph, traced or captured, holds no values to look at.
        """
        if torch.compiler.is_compiling() or self._input_is_known or type(images) is not Tensor:
            return
        if images.is_meta or not images.numel() or (images.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        self._input_is_known = True
        low, high = (float(value) for value in images.detach().aminmax())
        form = "x / 255" if 0 <= low < 0.2 and 0.5 < high <= 1 else "x" if low >= 0 and 20 < high <= 255 else None
        if form is not None:
            warnings.warn(
                f"the images hold values from {low:.3g} to {high:.3g}, as pixels x do that are given as {form}; this "
                "network takes (x / 255 - mean) / std, and finds next to nothing in others: mdnkernels.train.Predictor "
                "takes images as they are, and mdnkernels.train.data.colour has MEAN and STD",
                stacklevel=4,
            )
