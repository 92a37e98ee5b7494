"""What is regressed: which form a network has, what it refuses, and that it alone says how it is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models import (
    COCO_PERSON,
    Detector,
    MixtureRegression,
    PoseEstimator,
    SingleMode,
    build_model,
    pose_regression,
    size_regression,
)
from tests.models.networks import BOTH_TASKS


@pytest.mark.parametrize("task", BOTH_TASKS)
def test_family_and_floor_are_the_networks_own(task: str) -> None:
    regression = build_model("hourglass_small", task=task, components=3, family="laplace", min_scale=0.5).regression
    assert isinstance(regression, MixtureRegression)
    spec = regression.spec
    assert (spec.components, spec.family, spec.scale_activation, spec.min_scale) == (3, "laplace", "elu", 0.5)
    assert (spec.dims, spec.scales) == (2 if task == "detection" else 34, 2)


@pytest.mark.parametrize("task", BOTH_TASKS)
def test_no_components_are_the_base(task: str) -> None:
    regression = build_model("hourglass_small", task=task, components=0).regression
    assert isinstance(regression, SingleMode)
    assert regression.components == 0
    assert regression.head == ("size" if task == "detection" else "keypoints")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"components": 0, "family": "laplace"}, r"family 'laplace' needs a mixture"),
        ({"components": 2, "family": "cauchy"}, r"family must be .*got 'cauchy'"),
    ],
)
def test_a_family_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model("hourglass_small", **options)


def test_a_network_refuses_the_regression_of_another() -> None:
    backbone = build_model("hourglass_small", components=1).backbone
    with pytest.raises(ValueError, match="a detector of 4 classes regresses 2 dimensions"):
        Detector(backbone, 8, 4, pose_regression(COCO_PERSON, 2))
    with pytest.raises(ValueError, match="a detector of 4 classes"):
        Detector(backbone, 8, 4, size_regression(2, classes=3))
    with pytest.raises(ValueError, match="a pose of 17 keypoints has 34 dimensions"):
        PoseEstimator(backbone, 8, size_regression(2))


def test_values_of_each_class_need_the_points_class() -> None:
    regression = size_regression(0, classes=3)
    size = torch.arange(6.0).view(1, 6, 1).expand(1, 6, 4)  # channel d * 3 + class
    label = torch.tensor([[0, 2, 1, -1]])
    (chosen,) = regression.read({"size": size}, label)
    assert chosen.tolist() == [[[0, 2, 1, 0], [3, 5, 4, 3]]]
    with pytest.raises(ValueError, match="a size for each of 3 classes needs the points' label"):
        regression.read({"size": size})


@pytest.mark.parametrize("components", [0, 2])
def test_loss_and_count_are_of_the_observed_alone(components: int) -> None:
    """What is not observed may hold anything, and a mean over two parts is their means weighed by their counts."""
    regression = pose_regression(COCO_PERSON, components)
    generator = torch.Generator().manual_seed(0)

    def drawn(channels: int) -> Tensor:
        return torch.randn(2, channels, 5, generator=generator, dtype=torch.float64)

    values, target = [drawn(count) for count in regression.channels.values()], drawn(34)
    observed = torch.rand(2, 17, 5, generator=generator) < 0.4
    observed[:, :, 0] = False
    whole = regression.loss(values, target, observed)
    spoilt = torch.where(observed.repeat_interleave(2, 1), target, torch.nan)
    torch.testing.assert_close(regression.loss(values, spoilt, observed), whole)
    parts = [[value[row : row + 1] for value in (*values, target, observed)] for row in range(2)]
    means = torch.stack([regression.loss(part[:-2], part[-2], part[-1]) for part in parts])
    counts = torch.stack([regression.count(part[-1]) for part in parts])
    torch.testing.assert_close((means * counts).sum() / regression.count(observed), whole)
    assert regression.loss(values, target, torch.zeros_like(observed)) == 0


def test_the_choice_weight_multiplies_the_gradient_into_the_logits_alone() -> None:
    """The gradient of the logits is K (alpha - r), with the posterior r by torch.distributions."""
    regression = size_regression(3)
    generator = torch.Generator().manual_seed(0)
    values = [
        torch.randn(2, channels, 5, generator=generator, dtype=torch.float64).requires_grad_()
        for channels in regression.channels.values()
    ]
    target = torch.randn(2, 2, 5, generator=generator, dtype=torch.float64)
    observed = torch.ones(2, 1, 5, dtype=torch.bool)
    losses = [regression.loss(values, target, observed, choice_weight=factor) for factor in (1.0, 7.5)]
    assert torch.equal(*losses)
    plain, weighted = (torch.autograd.grad(loss, values) for loss in losses)
    assert all(torch.equal(*pair) for pair in zip(plain[1:], weighted[1:], strict=True))
    logits, loc, scale = (value.detach().unflatten(1, (3, -1)) for value in values)
    sigma = torch.nn.functional.elu(scale) + 2
    evidence = torch.distributions.Normal(loc, sigma).log_prob(target[:, None]).sum(2) + logits[:, :, 0].log_softmax(1)
    expected = 7.5 * (logits[:, :, 0].softmax(1) - evidence.softmax(1)) / 10
    torch.testing.assert_close(weighted[0], expected)
    assert not regression.loss(values, target, observed, choice_weight=0.0).isnan()


def test_the_base_has_nothing_to_describe() -> None:
    assert size_regression(0).statistics([torch.zeros(1, 2, 3)], torch.ones(1, 3, dtype=torch.bool)) == {}
