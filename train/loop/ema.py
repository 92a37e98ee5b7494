"""The exponential moving average of a network's weights, which is evaluated and predicts in place of the last ones."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class WeightAverage(Generic[M]):
    """A copy of a network that follows it: after each step average <- decay * average + (1 - decay) * weights.

    Running statistics are averaged like weights, as they belong to them; counters are copied.
    """

    def __init__(self, model: M, decay: float) -> None:
        """Begin with the model's weights; the copy is in eval mode."""
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: M) -> None:
        """Follow a step of `model`, the one that was given."""
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for average, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                averages.append(average)
                values.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(averages, values, 1 - self.decay)
