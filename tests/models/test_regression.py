"""What is regressed: which form a network has, what it refuses, and that it alone says how it is read."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Laplace, Normal, StudentT

import mdnkernels
from mdnkernels.models import (
    COCO_PERSON,
    Detector,
    MixtureRegression,
    PoseEstimator,
    SingleMode,
    Skeleton,
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


@pytest.mark.parametrize(
    ("family", "title"),
    [
        ("laplace", "3 components (laplace)"),
        (mdnkernels.StudentT(4.0), "3 components (student_t:4)"),
        (mdnkernels.StudentT(2.5), "3 components (student_t:2.5)"),
    ],
)
def test_a_mixture_is_called_as_its_option_is_written(family: str | mdnkernels.Family, title: str) -> None:
    assert size_regression(3, family=family).title == title


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


FAMILIES = {
    "gaussian": Normal,
    "laplace": Laplace,
    "student_t": lambda loc, scale: StudentT(4.0, loc, scale),
}


def drawn_mixture(family: str, seed: int) -> tuple[MixtureRegression, list[Tensor], Tensor, Tensor, Tensor]:
    """Return a mixture of three over two keypoints, its values at 2 x 6 points, a target, a mask and constants."""
    skeleton = Skeleton(("nose", "tail"), (0.3, 0.7))
    regression = pose_regression(
        skeleton, 3, family=mdnkernels.StudentT(4.0) if family == "student_t" else family, min_scale=0.5
    )
    assert isinstance(regression, MixtureRegression)
    generator = torch.Generator().manual_seed(seed)

    def drawn(channels: int) -> Tensor:
        return 2 * torch.randn(2, channels, 6, generator=generator, dtype=torch.float64)

    observed = torch.rand(2, 2, 6, generator=generator) < 0.6
    observed[0, :, 0], observed[1, :, 1] = False, True
    values = [drawn(channels) for channels in regression.channels.values()]
    return regression, values, drawn(4), observed, torch.tensor([0.3, 0.3, 0.7, 0.7], dtype=torch.float64)


def posterior_by_hand(
    family: str, values: list[Tensor], target: Tensor, observed: Tensor, kappa: Tensor, image: int, point: int
) -> Tensor:
    """Return the posterior (3,) of one point by torch.distributions, over the observed dimensions."""
    logits, loc, raw = (value[image, :, point] for value in values)
    seen = observed[image, :, point].repeat_interleave(2)
    sigma = (torch.nn.functional.elu(raw) + 1.5).view(3, 1, 2).expand(3, 2, 2).flatten(1) * kappa
    log_phi = FAMILIES[family](loc.view(3, 4), sigma).log_prob(target[image, :, point])[:, seen].sum(1)
    joint = logits.softmax(0) * log_phi.exp()
    return joint / joint.sum()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_posterior_is_bayes_rule_over_the_observed_dimensions(family: str) -> None:
    regression, values, target, observed, kappa = drawn_mixture(family, 2)
    spoilt = torch.where(observed.repeat_interleave(2, 1), target, torch.nan)
    found = regression.posterior(values, spoilt, observed, kappa)
    for image, point in itertools.product(range(2), range(6)):
        expected = posterior_by_hand(family, values, target, observed, kappa, image, point)
        if not observed[image, :, point].any():
            expected = torch.zeros_like(expected)
        torch.testing.assert_close(found[image, :, point], expected)
    assert not observed[0, :, 0].any()


def test_the_posterior_of_a_far_object_is_that_of_the_nearest_component() -> None:
    """Densities that all underflow still have a ratio; a component whose logit is -inf has no part."""
    logits = torch.tensor([[[0.0], [0.0], [-torch.inf]]])
    loc = torch.tensor([[[0.0], [0], [10], [10], [999], [999]]])
    size = torch.full((1, 2, 1), 1000.0)
    regression = size_regression(3)
    found = regression.posterior((logits, loc, torch.zeros(1, 6, 1)), size, torch.ones(1, 1, 1, dtype=torch.bool))
    assert found.flatten().tolist() == [0.0, 1.0, 0.0]


def test_usage_sums_over_the_objects_alone() -> None:
    regression, values, target, observed, kappa = drawn_mixture("gaussian", 5)
    objects = [(image, point) for image in range(2) for point in range(6) if observed[image, :, point].any()]
    assert 2 < len(objects) < 12
    share, chosen, sigma, entropy = torch.zeros(3), [0, 0, 0], torch.zeros(3), 0.0
    for image, point in objects:
        share = share + posterior_by_hand("gaussian", values, target, observed, kappa, image, point)
        alpha = values[0][image, :, point].softmax(0).tolist()
        chosen[alpha.index(max(alpha))] += 1
        entropy -= sum(one * math.log(one) for one in alpha) / math.log(3)
        raw = values[2][image, :, point].view(3, 2)
        sigma = sigma + (torch.nn.functional.elu(raw) + 1.5).mean(1)
    padding = ~observed.any(1, keepdim=True)
    spoilt = [torch.where(padding, torch.nan, value) for value in values]
    found = regression.usage(spoilt, target, observed, kappa)
    assert found["objects"].tolist() == [len(objects)]
    assert found["chosen"].tolist() == chosen
    torch.testing.assert_close(found["share"], share)
    torch.testing.assert_close(found["sigma"], sigma)
    assert found["choice_entropy"].item() == pytest.approx(entropy)


@pytest.mark.parametrize(("logits", "entropy"), [((0.0, 0, 0), 1), ((50.0, 0, 0), 0), ((0.0, 0, -torch.inf), 0.6309)])
def test_entropy_of_the_choice_is_a_share_of_the_largest(logits: tuple[float, ...], entropy: float) -> None:
    regression, values, target, observed, kappa = drawn_mixture("gaussian", 5)
    values[0] = torch.tensor(logits, dtype=torch.float64)[:, None].expand(2, 3, 6)
    found = regression.usage(values, target, observed, kappa)
    assert (found["choice_entropy"] / found["objects"]).item() == pytest.approx(entropy, abs=1e-4)


def test_one_component_has_every_object_and_the_base_has_none() -> None:
    size, real = torch.zeros(1, 2, 3), torch.tensor([[[True, True, False]]])
    found = size_regression(1).usage((size[:, :1], size, size), size, real)
    sums = {name: value.tolist() for name, value in found.items()}
    # ELU(0) + 1 + 1 is 2, at each of two objects.
    assert sums == {"objects": [2], "share": [2], "chosen": [2], "choice_entropy": [0], "sigma": [4]}
    assert size_regression(0).usage([size], size, real) == {}


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
