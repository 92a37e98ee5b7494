"""What the training losses of all tasks share: named parts, their weighted sum (the paper's Eq. 6), and each kind."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from mdnkernels import mixture_nll
from mdnkernels.mixture.eager import activate_scale
from models.decode import SCALE_ACTIVATION, Mixture, at_least_float32
from models.reading import read_cells

Targets = TypeVar("Targets")


class Criterion(nn.Module, ABC, Generic[Targets]):
    """Named losses, each the mean over the stacks, and their weighted sum."""

    def __init__(self, components: int, weights: Mapping[str, float]) -> None:
        """components: of the network. weights: of each loss, by name."""
        super().__init__()
        self.components = components
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
        """Return of how many cells, objects or keypoints each loss is the mean: (L,) float32, in the weights' order."""
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
    def regression_at(self, output: Mapping[str, Tensor], targets: Targets) -> Tensor | Mixture:
        """What one stack says at the objects, (B, ., N): the mixture, or the base's own."""

    @abstractmethod
    def _one_stack(self, output: Mapping[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """Return the losses of one stack."""

    @abstractmethod
    def _counts(self, targets: Targets) -> dict[str, Tensor]:
        """Return what each loss is divided by, where that is not 0, up to a factor that is the same for all targets."""


def regression_loss(
    values: Tensor | Mixture, target: Tensor, observed: Tensor, min_scale: float, dim_scale: Tensor | None = None
) -> Tensor:
    """The mixture's mean negative log-likelihood over the objects, or the base's mean absolute difference.

    values: at the objects. target: (B, C, N). observed: (B, G, N) bool, G a divisor of C.
    """
    if not isinstance(values, Mixture):
        return mean_absolute_error(values, target, observed)
    return mixture_nll(
        *values,
        target,
        mask=observed,
        dim_scale=dim_scale,
        scale_activation=SCALE_ACTIVATION,
        min_scale=min_scale,
    )


def count_centres(heatmap: Tensor) -> Tensor:
    """Return how many cells the focal loss takes for centres."""
    return (heatmap == 1).sum()


def read_points(values: Tensor, index: Tensor) -> Tensor:
    """(B, C, N): a sparse output as it is, a dense (B, C, h, w) one at the flat cells; padding reads cell 0."""
    return values if values.ndim == 3 else read_cells(values, index)


def mean_absolute_error(values: Tensor, target: Tensor, observed: Tensor) -> Tensor:
    """Mean absolute difference over the observed dimensions; 0 where there are none.

    values, target: (B, C, N). observed: (B, G, N) bool, G a divisor of C.
    """
    counted = observed.repeat_interleave(target.shape[1] // observed.shape[1], dim=1)
    difference = torch.where(counted, (at_least_float32(values) - target).abs(), 0)
    return difference.sum() / counted.sum().clamp(min=1)


@torch.no_grad()
def mixture_statistics(logits: Tensor, scale: Tensor, observed: Tensor, min_scale: float) -> dict[str, Tensor]:
    """What the mixture at the objects looks like, for the log: scalars on the device.

    logits: (B, M, N). scale: (B, M * S, N), raw. observed: (B, N) bool, which points are objects. min_scale:
    of the network. "alpha_entropy" is
    the mean entropy of the mixing weights over its largest possible value, in [0, 1] (0 for one component); "alpha_m"
    is component m's mean mixing weight, "sigma_m" its mean standard deviation, in cells (of a pose: before each
    keypoint's constant). NaN where there is no object.
    """
    counted = observed[:, None].float()
    count = counted.sum()
    log_alpha = logits.float().log_softmax(1)
    components = log_alpha.shape[1]
    sigma = activate_scale(scale.float(), SCALE_ACTIVATION, min_scale)
    entropy = -(log_alpha.exp() * log_alpha * counted).sum() / count / math.log(max(components, 2))
    alpha = (log_alpha.exp() * counted).sum((0, 2)) / count
    sigma = (sigma.unflatten(1, (components, -1)).mean(2) * counted).sum((0, 2)) / count
    statistics = {"alpha_entropy": entropy}
    for m in range(components):
        statistics[f"alpha_{m}"] = alpha[m]
        statistics[f"sigma_{m}"] = sigma[m]
    return statistics
