"""The training loss of a detector as named parts, and their weighted sum (Eq. 6 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mdnkernels import heatmap_focal_loss, mixture_nll
from mdnkernels.eager.mixture import activate_scale
from models.decode import MIN_SCALE, SCALE_ACTIVATION
from models.reading import read_cells
from train.config import OptimizerConfig
from train.targets import DetectionTargets


class DetectionCriterion(nn.Module):
    """Focal loss of the heatmap, L1 of the offset, and the size's mixture NLL (or L1 for the base)."""

    def __init__(self, components: int, weights: Mapping[str, float]) -> None:
        """components: of the detector. weights: one for each of "heatmap", "offset" and "mixture" (base: "size")."""
        super().__init__()
        self.components = components
        self.names = ("heatmap", "offset", "mixture" if components else "size")
        if set(weights) != set(self.names):
            raise ValueError(f"weights must be given for {self.names}, not for {tuple(weights)}")
        self.weights = dict(weights)

    def forward(self, outputs: list[dict[str, Tensor]], targets: DetectionTargets) -> dict[str, Tensor]:
        """The unweighted losses by name, float32 scalars, each the mean over the stacks.

        outputs: of `Detector.forward`, sparse (with `targets.index`) or dense.
        """
        stacks = [self._one_stack(output, targets) for output in outputs]
        return {name: torch.stack([losses[name] for losses in stacks]).mean() for name in self.names}

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum that is minimised."""
        return torch.stack([self.weights[name] * losses[name] for name in self.names]).sum()

    def _one_stack(self, output: Mapping[str, Tensor], targets: DetectionTargets) -> dict[str, Tensor]:
        observed = (targets.index >= 0)[:, None]
        losses = {
            "heatmap": heatmap_focal_loss(output["heatmap"], targets.heatmap),
            "offset": _l1(output["offset"], targets.offset, targets.index, observed),
        }
        if self.components == 0:
            losses["size"] = _l1(output["size"], targets.size, targets.index, observed)
        else:
            dense = output["logits"].ndim == 4
            losses["mixture"] = mixture_nll(
                output["logits"],
                output["loc"],
                output["scale"],
                targets.size,
                mask=observed,
                index=targets.index if dense else None,
                scale_activation=SCALE_ACTIVATION,
                min_scale=MIN_SCALE,
            )
        return losses


def criterion_of(components: int, config: OptimizerConfig) -> DetectionCriterion:
    """The criterion for a model of so many components with the configured weights."""
    size = "mixture" if components else "size"
    return DetectionCriterion(
        components, {"heatmap": config.heatmap_weight, "offset": config.offset_weight, size: config.size_weight}
    )


def _at(values: Tensor, index: Tensor) -> Tensor:
    """(B, C, N): a sparse output as it is, a dense (B, C, h, w) one at the flat cells; padding reads cell 0."""
    return values if values.ndim == 3 else read_cells(values, index)


def _l1(values: Tensor, target: Tensor, index: Tensor, observed: Tensor) -> Tensor:
    """Mean absolute difference over the dimensions of the observed positions; 0 where there are none."""
    difference = torch.where(observed, (_at(values, index).float() - target).abs(), 0)
    return difference.sum() / (observed.sum() * target.shape[1]).clamp(min=1)


@torch.no_grad()
def mixture_statistics(output: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """What the mixture at the objects looks like, for the log: scalars on the device.

    output: one stack's, sparse or dense. index: (B, N) centre cells, -1 for padding. "alpha_entropy" is the mean
    entropy of the mixing weights over its largest possible value, in [0, 1] (0 for one component); "alpha_m" is
    component m's mean mixing weight, "sigma_m" its mean standard deviation over width and height, in cells. NaN where
    there is no object.
    """
    observed = (index >= 0)[:, None].float()
    count = observed.sum()
    log_alpha = _at(output["logits"], index).float().log_softmax(1)
    components = log_alpha.shape[1]
    sigma = activate_scale(_at(output["scale"], index).float(), SCALE_ACTIVATION, MIN_SCALE)
    entropy = -(log_alpha.exp() * log_alpha * observed).sum() / count / math.log(max(components, 2))
    alpha = (log_alpha.exp() * observed).sum((0, 2)) / count
    sigma = (sigma.unflatten(1, (components, -1)).mean(2) * observed).sum((0, 2)) / count
    statistics = {"alpha_entropy": entropy}
    for m in range(components):
        statistics[f"alpha_{m}"] = alpha[m]
        statistics[f"sigma_{m}"] = sigma[m]
    return statistics
