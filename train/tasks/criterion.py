"""What the training losses of all tasks share: named parts, their weighted sum (the paper's Eq. 6), and each kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from models.reading import read_cells
from models.regression import Regression

Targets = TypeVar("Targets")


class Criterion(nn.Module, ABC, Generic[Targets]):
    """Named losses, each the mean over the stacks, and their weighted sum."""

    def __init__(self, regression: Regression, weights: Mapping[str, float], choice_weight: float = 1.0) -> None:
        """regression: the network's. weights: of each loss, by name. choice_weight: as in `Regression.loss`."""
        super().__init__()
        self.regression = regression
        self.choice_weight = choice_weight
        self.weights = dict(weights)

    def forward(self, outputs: list[dict[str, Tensor]], targets: Targets) -> dict[str, Tensor]:
        """Return the unweighted losses by name, float32 scalars.

        outputs: of the network's `forward`, sparse (with the targets' indices) or dense.
        """
        stacks = [self._one_stack(output, targets) for output in outputs]
        return {name: torch.stack([losses[name] for losses in stacks]).mean() for name in self.weights}

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum that is minimised."""
        return torch.stack([weight * losses[name] for name, weight in self.weights.items()]).sum()

    def counts(self, targets: Targets) -> Tensor:
        """Return how many cells, objects or keypoints each loss is the mean of: (L,) float32, in the weights' order."""
        counts = self._counts(targets)
        return torch.stack([counts[name] for name in self.weights]).float()

    def parts_of(self, losses: Mapping[str, Tensor], counts: Tensor, whole: Tensor) -> dict[str, Tensor]:
        """Return what a part of a batch adds to the losses of the whole, so that the parts sum to the whole batch's.

        losses, counts: of the part. whole: (L,), the sum of the counts over all parts. Means of means would be others:
        a part with few objects would weigh as much as one with many.
        """
        # Where nothing is counted, a sum is divided by one.
        shares = counts.clamp(min=1) / whole.clamp(min=1)
        return {name: losses[name] * share for name, share in zip(self.weights, shares.unbind(), strict=True)}

    @abstractmethod
    def regression_at(self, output: Mapping[str, Tensor], targets: Targets) -> tuple[Tensor, ...]:
        """Return what `regression.read` gives of one stack at the objects, each (B, ., N)."""

    @abstractmethod
    def _one_stack(self, output: Mapping[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """Return the losses of one stack."""

    @abstractmethod
    def _counts(self, targets: Targets) -> dict[str, Tensor]:
        """Return what each loss is divided by, where that is not 0, up to a factor that is the same for all targets."""


def count_centres(heatmap: Tensor) -> Tensor:
    """Return how many cells the focal loss takes for centres."""
    return (heatmap == 1).sum()


def read_points(values: Tensor, index: Tensor) -> Tensor:
    """Return (B, C, N): a sparse output as it is, a dense (B, C, h, w) one at the flat cells; padding reads cell 0."""
    return values if values.ndim == 3 else read_cells(values, index)
