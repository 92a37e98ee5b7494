"""The training loss of a detector as named parts, and their weighted sum (Eq. 6 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mdnkernels import heatmap_focal_loss, mixture_nll
from mdnkernels.eager.mixture import activate_scale
from models.decode import MIN_SCALE, SCALE_ACTIVATION, Mixture
from models.detector import read_size
from models.reading import read_cells
from train.config import ModelConfig, OptimizerConfig
from train.targets import DetectionTargets


class DetectionCriterion(nn.Module):
    """Focal loss of the heatmap, L1 of the offset, and the size's mixture NLL (or L1 for the base)."""

    def __init__(self, components: int, weights: Mapping[str, float], *, class_specific: bool = False) -> None:
        """components, class_specific: of the detector. weights: of "heatmap", "offset" and "mixture" (base: "size")."""
        super().__init__()
        self.components = components
        self.class_specific = class_specific
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

    def size_at(self, output: Mapping[str, Tensor], targets: DetectionTargets) -> Tensor | Mixture:
        """The size at the objects, (B, ., N): the mixture, or the base's own."""
        points = {name: _at(values, targets.index) for name, values in output.items() if name != "heatmap"}
        classes = output["heatmap"].shape[1] if self.class_specific else None
        return read_size(points, self.components, targets.label, classes)

    def _one_stack(self, output: Mapping[str, Tensor], targets: DetectionTargets) -> dict[str, Tensor]:
        observed = (targets.index >= 0)[:, None]
        size = self.size_at(output, targets)
        losses = {
            "heatmap": heatmap_focal_loss(output["heatmap"], targets.heatmap),
            "offset": _l1(_at(output["offset"], targets.index), targets.offset, observed),
        }
        if self.components == 0:
            losses["size"] = _l1(size, targets.size, observed)
        else:
            losses["mixture"] = mixture_nll(
                *size, targets.size, mask=observed, scale_activation=SCALE_ACTIVATION, min_scale=MIN_SCALE
            )
        return losses


def criterion_of(model: ModelConfig, config: OptimizerConfig) -> DetectionCriterion:
    """The criterion for a configured model with the configured weights."""
    size = "mixture" if model.components else "size"
    return DetectionCriterion(
        model.components,
        {"heatmap": config.heatmap_weight, "offset": config.offset_weight, size: config.size_weight},
        class_specific=model.class_specific,
    )


def _at(values: Tensor, index: Tensor) -> Tensor:
    """(B, C, N): a sparse output as it is, a dense (B, C, h, w) one at the flat cells; padding reads cell 0."""
    return values if values.ndim == 3 else read_cells(values, index)


def _l1(values: Tensor, target: Tensor, observed: Tensor) -> Tensor:
    """Mean absolute difference over the dimensions of the observed positions; 0 where there are none."""
    difference = torch.where(observed, (values.float() - target).abs(), 0)
    return difference.sum() / (observed.sum() * target.shape[1]).clamp(min=1)


@torch.no_grad()
def mixture_statistics(logits: Tensor, scale: Tensor, observed: Tensor) -> dict[str, Tensor]:
    """What the mixture at the objects looks like, for the log: scalars on the device.

    logits: (B, M, N). scale: (B, M * S, N), raw. observed: (B, N) bool, which points are objects. "alpha_entropy" is
    the mean entropy of the mixing weights over its largest possible value, in [0, 1] (0 for one component); "alpha_m"
    is component m's mean mixing weight, "sigma_m" its mean standard deviation, in cells. NaN where there is no object.
    """
    counted = observed[:, None].float()
    count = counted.sum()
    log_alpha = logits.float().log_softmax(1)
    components = log_alpha.shape[1]
    sigma = activate_scale(scale.float(), SCALE_ACTIVATION, MIN_SCALE)
    entropy = -(log_alpha.exp() * log_alpha * counted).sum() / count / math.log(max(components, 2))
    alpha = (log_alpha.exp() * counted).sum((0, 2)) / count
    sigma = (sigma.unflatten(1, (components, -1)).mean(2) * counted).sum((0, 2)) / count
    statistics = {"alpha_entropy": entropy}
    for m in range(components):
        statistics[f"alpha_{m}"] = alpha[m]
        statistics[f"sigma_{m}"] = sigma[m]
    return statistics
