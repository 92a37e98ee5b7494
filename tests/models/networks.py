"""Networks that are not at their initialisation, and losses of all that they give, for the tests of both tasks."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdnkernels import mixture_nll
from mdnkernels.models import Detector, Head, PoseEstimator, build_model

BOTH_ARCHITECTURES = ("hourglass_small", "dla34")
BOTH_TASKS = ("detection", "pose")
CLASSES = 3

# Two images, 32 x 64 pixels: 8 x 16 cells. A repeated cell, all four corners, and padding.
IMAGES = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(2))
CENTRES = torch.tensor([[0, 15, 112, 127, 100, 100], [77, 90, 1, 16, -1, -1]])
KEYPOINTS = torch.tensor([[5, 5, 127, 0, 15, 112, 100, 17, 18, -1], [-1, 126, 126, 126, 127, 0, -1, 112, 15, -1]])


def awake(
    arch: str, task: str, components: int, dtype: torch.dtype = torch.float64, **options: object
) -> Detector | PoseEstimator:
    """Return a network in training mode that is not at its initialisation.

    At its initialisation every cell scores 0.1, every box is a point, and every deformable convolution reads its own
    nine cells.
    """
    return copy.deepcopy(_awake(arch, task, components, tuple(options.items()))).to(dtype)


@functools.cache
def _awake(arch: str, task: str, components: int, options: tuple) -> Detector | PoseEstimator:
    torch.manual_seed(0)
    num_classes = CLASSES if task == "detection" else 1
    model = build_model(arch, task=task, num_classes=num_classes, components=components, **dict(options))
    for name, parameter in model.named_parameters():
        if "taps" in name:
            nn.init.normal_(parameter, std=0.01)
    # Evaluation is to see features of the size that training has.
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    images = torch.randn(6, 3, 96, 96)
    with torch.no_grad():
        model.backbone(images)
        for group, feature in zip(model.heads, model.backbone.eval()(images), strict=True):
            for head in group.heads.values():
                _spread(head, feature)
            if "size" in group.heads:
                nn.init.uniform_(group.heads["size"].output.bias, 8, 16)
    for norm in norms:
        norm.momentum = 0.1
    return model.train()


def _spread(head: Head, feature: Tensor) -> None:
    """Give each channel of the head's output a standard deviation of 0.6 about the head's own bias."""
    nn.init.normal_(head.output.weight)
    values = F.relu(head.hidden(feature)).transpose(0, 1).flatten(1)
    outputs = head.output.weight.flatten(1) @ values
    factor = 0.6 / outputs.std(1)
    head.output.weight.mul_(factor[:, None, None, None])
    head.output.bias.sub_(outputs.mean(1) * factor)


def read(maps: Tensor, index: Tensor) -> Tensor:
    """Read maps (B, C, h, w) at cells (B, N) with a loop; return (B, C, N)."""
    rows = zip(maps.flatten(2), index.tolist(), strict=True)
    return torch.stack([torch.stack([image[:, max(cell, 0)] for cell in cells], 1) for image, cells in rows])


def training_loss(model: Detector | PoseEstimator, images: Tensor, *, sparse: bool) -> Tensor:
    """Return a loss like the criterion's on all outputs of all stacks. Padding is not counted."""
    pose = isinstance(model, PoseEstimator)
    cells = (CENTRES, KEYPOINTS) if pose else (CENTRES,)
    stacks = model(images, *cells) if sparse else model(images)
    total = images.new_zeros(())
    for outputs in stacks:
        for name, values in outputs.items():
            if name.endswith("heatmap"):
                total = total + values.square().mean()
                continue
            index = KEYPOINTS if name == "keypoint_offset" else CENTRES
            points = values if sparse else read(values, index)
            outputs[name] = points
            if name not in ("logits", "loc", "scale"):
                target = _targets(points)
                total = total + ((points - target).abs().sum(1) * (index >= 0)).mean()
        if model.components:
            total = total + _mixture_loss(model, outputs)
    return total


def _targets(points: Tensor) -> Tensor:
    return torch.linspace(-5, 9, points.numel(), dtype=points.dtype).view_as(points)


# What the models' mixtures are.
PAPER: dict[str, Any] = {"scale_activation": "elu", "min_scale": 1.0, "scale_order": "interleaved"}


def _mixture_loss(model: Detector | PoseEstimator, outputs: dict[str, Tensor]) -> Tensor:
    loc = outputs["loc"]
    target = _targets(loc[:, : loc.shape[1] // model.components])
    counted = (CENTRES >= 0)[:, None]
    kappa = None
    if isinstance(model, PoseEstimator):
        joints = len(model.skeleton.names)
        observed = torch.arange(joints * CENTRES.numel()).view(len(CENTRES), joints, -1) % 3 > 0
        counted = counted & observed
        # Ten times COCO's, which fit poses that are some hundred pixels high.
        kappa = 10 * torch.tensor(model.skeleton.sigmas, dtype=loc.dtype).repeat_interleave(2)
    mixture = outputs["logits"], loc, outputs["scale"], target
    return mixture_nll(*mixture, mask=counted, dim_scale=kappa, **PAPER)


def assert_close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float = 1e-10) -> None:
    """Compare two named tuples field by field, whatever their dtypes."""
    for name, a, b in zip(ours._fields, ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
