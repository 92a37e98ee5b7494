"""The named losses and their weights. Sparse and dense outputs give the same losses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mdnkernels.models import COCO_PERSON, pose_regression, size_regression
from mdnkernels.train.config.options import OptimizerConfig
from mdnkernels.train.tasks.criterion import Criterion
from mdnkernels.train.tasks.detection import DetectionCriterion, DetectionTargets, detection_targets
from mdnkernels.train.tasks.pose import PoseCriterion, pose_targets
from mdnkernels.train.tasks.weights import MixtureStacks

BOXES = torch.tensor([[[4.0, 4, 20, 28], [30, 8, 50, 16], [0, 0, 0, 0]], [[8, 40, 60, 62], [0, 0, 0, 0], [0, 0, 0, 0]]])
LABELS = torch.tensor([[0, 1, -1], [1, -1, -1]])
WEIGHTS = OptimizerConfig()


@pytest.fixture
def targets() -> DetectionTargets:
    return detection_targets(BOXES, LABELS, (16, 16))


def dense_output(components: int, seed: int = 0) -> dict[str, Tensor]:
    """Return one stack's maps for two images, two classes, 16 x 16 cells."""
    generator = torch.Generator().manual_seed(seed)
    channels = {"heatmap": 2, "offset": 2}
    channels |= {"logits": components, "loc": 2 * components, "scale": 2 * components} if components else {"size": 2}
    return {
        name: torch.randn(2, count, 16, 16, generator=generator).requires_grad_() for name, count in channels.items()
    }


def at_cells(output: dict[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """Return what a network with sparse heads gives. Its padding holds values that must not matter."""
    sparse = {"heatmap": output["heatmap"]}
    for name in output.keys() - {"heatmap"}:
        cells = index.clamp(min=0)[:, None].expand(-1, output[name].shape[1], -1)
        values = output[name].flatten(2).gather(2, cells)
        sparse[name] = torch.where(index[:, None] >= 0, values, 1e4)
    return sparse


@pytest.mark.parametrize("components", [0, 1, 3])
def test_sparse_and_dense_outputs_give_the_same_losses_and_gradients(
    components: int, targets: DetectionTargets
) -> None:
    criterion = DetectionCriterion(size_regression(components), WEIGHTS)
    output = dense_output(components)
    gradients = []
    for form in (output, at_cells(output, targets.index)):
        losses = criterion([form], targets)
        gradients.append(torch.autograd.grad(criterion.total(losses), list(output.values())))
        assert set(losses) == {"heatmap", "offset", "mixture" if components else "size"}
    for dense, sparse in zip(*gradients, strict=True):
        torch.testing.assert_close(dense, sparse)


def test_mixture_loss_is_the_mean_over_objects_of_the_density(targets: DetectionTargets) -> None:
    output = {name: value.double() for name, value in dense_output(3).items()}
    values = []
    for image, column in ((0, 0), (0, 1), (1, 0)):
        y, x = divmod(int(targets.index[image, column]), 16)
        density = 0.0
        alpha = output["logits"][image, :, y, x].softmax(0)
        for m in range(3):
            phi = 1.0
            for d in range(2):
                raw = output["scale"][image, 2 * m + d, y, x].item()
                sigma = (raw if raw > 0 else math.expm1(raw)) + 2
                z = (targets.size[image, d, column].item() - output["loc"][image, 2 * m + d, y, x].item()) / sigma
                phi *= math.exp(-z * z / 2) / (sigma * math.sqrt(2 * math.pi))
            density += alpha[m].item() * phi
        values.append(-math.log(density))
    loss = DetectionCriterion(size_regression(3), WEIGHTS)([dense_output(3)], targets)["mixture"]
    assert loss.item() == pytest.approx(sum(values) / 3, rel=1e-5)


@pytest.mark.parametrize("task", ["detection", "pose"])
def test_the_choice_weight_reaches_the_logits_of_every_task(task: str, targets: DetectionTargets) -> None:
    gradients = []
    for factor in (1.0, 30.0):
        weights = OptimizerConfig(choice_weight=factor)
        generator = torch.Generator().manual_seed(0)
        if task == "detection":
            criterion: Criterion[Any] = DetectionCriterion(size_regression(2), weights)
            output, truth = dense_output(2), targets
        else:
            criterion = PoseCriterion(pose_regression(COCO_PERSON, 2), weights, COCO_PERSON)
            channels = {"heatmap": 1, "offset": 2, "size": 2, "logits": 2, "loc": 68, "scale": 4}
            channels |= {"keypoint_heatmap": 17, "keypoint_offset": 2}
            output = {name: torch.randn(2, count, 16, 16, generator=generator) for name, count in channels.items()}
            keypoints = torch.rand(2, 3, 17, 3, generator=generator) * 60
            truth = pose_targets(BOXES, LABELS.clamp(max=0), keypoints, (16, 16))
        read = [output[name].requires_grad_() for name in ("logits", "loc", "scale")]
        gradients.append(torch.autograd.grad(criterion.total(criterion([output], truth)), read))
    torch.testing.assert_close(gradients[1][0], 30 * gradients[0][0])
    assert gradients[0][0].abs().sum() > 0
    assert all(torch.equal(*pair) for pair in zip(gradients[0][1:], gradients[1][1:], strict=True))


def test_base_size_loss_is_the_mean_absolute_difference(targets: DetectionTargets) -> None:
    output = at_cells(dense_output(0), targets.index)
    real = (targets.index >= 0)[:, None].expand(-1, 2, -1)
    losses = DetectionCriterion(size_regression(0), WEIGHTS)([output], targets)
    for name in ("size", "offset"):
        expected = (output[name] - getattr(targets, name))[real].abs().mean()
        torch.testing.assert_close(losses[name], expected)


def test_losses_are_means_over_the_stacks(targets: DetectionTargets) -> None:
    criterion = DetectionCriterion(size_regression(2), WEIGHTS)
    stacks = [dense_output(2, seed) for seed in (1, 2)]
    together, *alone = criterion(stacks, targets), criterion(stacks[:1], targets), criterion(stacks[1:], targets)
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2)


def test_total_weighs_the_losses_as_equation_six(targets: DetectionTargets) -> None:
    criterion = DetectionCriterion(size_regression(2), WEIGHTS)
    losses = criterion([dense_output(2)], targets)
    expected = losses["heatmap"] + losses["offset"] + 0.1 * losses["mixture"]
    torch.testing.assert_close(criterion.total(losses), expected)


@pytest.mark.parametrize("components", [0, 2])
def test_batch_without_any_object_trains_on_the_background(components: int) -> None:
    targets = detection_targets(torch.zeros(2, 1, 4), torch.full((2, 1), -1), (16, 16))
    output = dense_output(components)
    criterion = DetectionCriterion(size_regression(components), WEIGHTS)
    losses = criterion([at_cells(output, targets.index)], targets)
    assert losses["offset"] == 0
    assert losses["mixture" if components else "size"] == 0
    criterion.total(losses).backward()
    assert output["heatmap"].grad is not None
    assert output["heatmap"].grad.abs().sum() > 0
    for name in output.keys() - {"heatmap"}:
        gradient = output[name].grad
        assert gradient is None or (gradient == 0).all()


def test_losses_of_the_last_stack_alone_train_no_other_mixture(targets: DetectionTargets) -> None:
    """As the published code of poses has it: the mean over the stacks, in which the others' mixture counts as 0."""
    size_of = size_regression(2)
    criterion = DetectionCriterion(size_of, OptimizerConfig(mixture_stacks="last"))
    stacks = [dense_output(2, seed) for seed in (1, 2, 3)]
    losses, usual = criterion(stacks, targets), DetectionCriterion(size_of, WEIGHTS)(stacks, targets)
    alone = DetectionCriterion(size_of, WEIGHTS)(stacks[2:], targets)
    torch.testing.assert_close(losses["mixture"], alone["mixture"] / 3)
    assert all(torch.equal(losses[name], usual[name]) for name in ("heatmap", "offset"))
    criterion.total(losses).backward()
    for number, stack in enumerate(stacks):
        assert all((stack[name].grad is not None) == (number == 2) for name in ("logits", "loc", "scale"))
        assert all(stack[name].grad.any() for name in ("heatmap", "offset"))


def test_usage_is_that_of_the_last_stack_at_the_objects(targets: DetectionTargets) -> None:
    criterion = DetectionCriterion(size_regression(2), WEIGHTS)
    stacks = [dense_output(2, seed) for seed in (1, 2)]
    found = criterion.usage(stacks, targets)
    logits = at_cells(stacks[1], targets.index)["logits"].transpose(1, 2)[targets.index >= 0]
    assert found["objects"].tolist() == [3]
    assert found["chosen"].tolist() == logits.argmax(1).bincount(minlength=2).tolist()
    torch.testing.assert_close(criterion.usage(stacks[1:], targets), found)
    assert not any(value.requires_grad for value in found.values())


@pytest.mark.parametrize("components", [0, 2])
def test_a_size_for_each_class_is_trained_at_the_objects_class_alone(
    components: int, targets: DetectionTargets
) -> None:
    """The other class has as many channels again, channel by channel. They must get no gradient."""
    plain = dense_output(components)
    expected = DetectionCriterion(size_regression(components), WEIGHTS)([plain], targets)
    names = ("logits", "loc", "scale") if components else ("size",)
    both = dict(plain)
    label = torch.full((2, 16 * 16), -1)
    for image, column in ((0, 0), (0, 1), (1, 0)):
        label[image, targets.index[image, column]] = targets.label[image, column]
    right = torch.stack([label.view(2, 1, 16, 16) == y for y in range(2)], 2)  # (B, 1, 2, h, w)
    for name in names:
        both[name] = torch.where(right, plain[name].detach()[:, :, None], 1e3).flatten(1, 2).requires_grad_()
    criterion = DetectionCriterion(size_regression(components, classes=2), WEIGHTS)
    losses = criterion([both], targets)
    torch.testing.assert_close(losses, expected)
    criterion.total(losses).backward()
    for name in names:
        assert not both[name].grad.unflatten(1, (-1, 2))[~right.expand(-1, both[name].shape[1] // 2, -1, -1, -1)].any()


def pose_output(components: int) -> dict[str, Tensor]:
    """Return one stack's maps for the two images, sixteen cells a side."""
    generator = torch.Generator().manual_seed(3)
    channels = {"heatmap": 1, "offset": 2, "size": 2, "keypoint_heatmap": 17, "keypoint_offset": 2}
    channels |= {"logits": components, "loc": 34 * components, "scale": 2 * components} if components else {}
    channels |= {} if components else {"keypoints": 34}
    return {
        name: torch.randn(2, count, 16, 16, generator=generator, requires_grad=True) for name, count in channels.items()
    }


@pytest.mark.parametrize("empty", [False, True], ids=["objects in both", "objects in one part alone"])
@pytest.mark.parametrize(("components", "stacks"), [(0, "all"), (2, "all"), (2, "last")])
@pytest.mark.parametrize("task", ["detection", "pose"])
def test_parts_of_a_batch_add_up_to_its_losses_and_gradients(
    task: str, components: int, stacks: MixtureStacks, empty: bool
) -> None:
    """Objects are spread unevenly over the parts, where a mean of the parts' means would be another number."""
    labels = LABELS.clone()
    if empty:
        labels[1] = -1
    criterion: Criterion[Any]
    targets: Any
    weights = OptimizerConfig(mixture_stacks=stacks)
    if task == "detection":
        targets, output = detection_targets(BOXES, labels, (16, 16)), dense_output(components)
        criterion = DetectionCriterion(size_regression(components), weights)
    else:
        points = 60 * torch.rand(2, 3, 17, 2, generator=torch.Generator().manual_seed(1))
        seen = torch.arange(2 * 3 * 17).view(2, 3, 17, 1) % 3
        targets = pose_targets(BOXES, labels.clamp(max=0), torch.cat((points, seen), 3), (16, 16))
        output = pose_output(components)
        regression = pose_regression(COCO_PERSON, components, min_scale=9.0)
        criterion = PoseCriterion(regression, weights, COCO_PERSON)
    before = {name: (2 * value).detach() for name, value in output.items()}  # an earlier stack's
    whole = criterion([before, output], targets)
    counts = criterion.counts(targets)
    parts = []
    for row in (slice(0, 1), slice(1, 2)):
        some = targets._make(values[row] for values in targets)
        part = [{name: values[row] for name, values in stack.items()} for stack in (before, output)]
        parts.append(criterion.parts_of(criterion(part, some), criterion.counts(some), counts))
    for name, loss in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], loss)
    together = criterion.total(parts[0]) + criterion.total(parts[1])
    gradients = [torch.autograd.grad(total, list(output.values())) for total in (criterion.total(whole), together)]
    for expected, given in zip(*gradients, strict=True):
        torch.testing.assert_close(given, expected)


def test_whole_batch_is_its_own_only_part_bit_for_bit(targets: DetectionTargets) -> None:
    criterion = DetectionCriterion(size_regression(2), WEIGHTS)
    losses, counts = criterion([dense_output(2)], targets), criterion.counts(targets)
    assert all(torch.equal(part, losses[name]) for name, part in criterion.parts_of(losses, counts, counts).items())
