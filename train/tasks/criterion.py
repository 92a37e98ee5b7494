"""What the training losses of all tasks share: named parts, their weighted sum (the paper's Eq. 6), and each kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from mdnkernels.models.reading import read_cells
from mdnkernels.models.regression import Regression
from mdnkernels.train.tasks.weights import MixtureStacks

Targets = TypeVar("Targets")


class Truth(NamedTuple):
    """Holds what the regression should predict, as `Regression.loss` takes it."""

    target: Tensor  # (B, C, N), in cells
    observed: Tensor  # (B, G, N) bool, G a divisor of C
    dim_scale: Tensor | None  # (C,)


class Criterion(nn.Module, ABC, Generic[Targets]):
    """Named losses, each the mean over the stacks, and their weighted sum.

    A loss is the mean over N objects (cells, keypoints), and 0 for none. The published code divides its mixture's sum
    by 1 + N: that loss is N / (1 + N) of this one, half for a single object and nearly all of it for many.
    """

    def __init__(
        self,
        regression: Regression,
        weights: Mapping[str, float],
        mixture_stacks: MixtureStacks = "all",
        choice_weight: float = 1.0,
    ) -> None:
        """regression: the network's. weights: of each loss, by name.

        mixture_stacks: "all", or "last": the regression's loss is then that of the last stack over the number of
        stacks, a mean in which the others have none. choice_weight: as in `Regression.loss`.
        """
        super().__init__()
        self.regression = regression
        self.choice_weight = choice_weight
        self.weights = dict(weights)
        self.mixture_stacks = mixture_stacks

    def forward(self, outputs: list[dict[str, Tensor]], targets: Targets) -> dict[str, Tensor]:
        """Return the unweighted losses by name, float32 scalars.

        outputs: of the network's `forward`, sparse (with the targets' indices) or dense.
        """
        stacks = [self._one_stack(output, targets) for output in outputs]
        losses = {name: [stack[name] for stack in stacks] for name in stacks[0]}
        losses[self.regression.loss_name] = [
            self.regression.loss(self.regression_at(output, targets), *self.truth(targets), self.choice_weight)
            for output in (outputs if self.mixture_stacks == "all" else outputs[-1:])
        ]
        return {name: torch.stack(losses[name]).sum() / len(outputs) for name in self.weights}

    def usage(self, outputs: list[dict[str, Tensor]], targets: Targets) -> dict[str, Tensor]:
        """Return the sums of `Regression.usage` over the objects, as the last stack, which predicts, has them."""
        return self.regression.usage(self.regression_at(outputs[-1], targets), *self.truth(targets))

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
    def truth(self, targets: Targets) -> Truth:
        """Return what the regression should predict at the objects."""

    @abstractmethod
    def _one_stack(self, output: Mapping[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """Return the losses of one stack, all but the regression's."""

    @abstractmethod
    def _counts(self, targets: Targets) -> dict[str, Tensor]:
        """Return what each loss is divided by, where that is not 0, up to a factor that is the same for all targets."""


def read_points(values: Tensor, index: Tensor) -> Tensor:
    """Return (B, C, N): a sparse output as it is, a dense (B, C, h, w) one at the flat cells; padding reads cell 0."""
    return values if values.ndim == 3 else read_cells(values, index)
