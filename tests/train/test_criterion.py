"""The named losses, their weights, and that sparse and dense outputs are the same to them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from train.config import OptimizerConfig
from train.criterion import DetectionCriterion, criterion_of, mixture_statistics
from train.targets import DetectionTargets, detection_targets

BOXES = torch.tensor([[[4.0, 4, 20, 28], [30, 8, 50, 16], [0, 0, 0, 0]], [[8, 40, 60, 62], [0, 0, 0, 0], [0, 0, 0, 0]]])
LABELS = torch.tensor([[0, 1, -1], [1, -1, -1]])


@pytest.fixture
def targets() -> DetectionTargets:
    return detection_targets(BOXES, LABELS, 2, (16, 16))


def dense_output(components: int, seed: int = 0) -> dict[str, Tensor]:
    """One stack's maps for two images, two classes, 16 x 16 cells."""
    generator = torch.Generator().manual_seed(seed)
    channels = {"heatmap": 2, "offset": 2}
    channels |= {"logits": components, "loc": 2 * components, "scale": 2 * components} if components else {"size": 2}
    return {
        name: torch.randn(2, count, 16, 16, generator=generator).requires_grad_() for name, count in channels.items()
    }


def at_cells(output: dict[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """What a network with sparse heads gives; padding holds values that must not matter."""
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
    criterion = criterion_of(components, OptimizerConfig())
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
    loss = criterion_of(3, OptimizerConfig())([dense_output(3)], targets)["mixture"]
    assert loss.item() == pytest.approx(sum(values) / 3, rel=1e-5)


def test_base_size_loss_is_the_mean_absolute_difference(targets: DetectionTargets) -> None:
    output = at_cells(dense_output(0), targets.index)
    real = (targets.index >= 0)[:, None].expand(-1, 2, -1)
    losses = criterion_of(0, OptimizerConfig())([output], targets)
    for name in ("size", "offset"):
        expected = (output[name] - getattr(targets, name))[real].abs().mean()
        torch.testing.assert_close(losses[name], expected)


def test_losses_are_means_over_the_stacks(targets: DetectionTargets) -> None:
    criterion = criterion_of(2, OptimizerConfig())
    stacks = [dense_output(2, seed) for seed in (1, 2)]
    together, *alone = criterion(stacks, targets), criterion(stacks[:1], targets), criterion(stacks[1:], targets)
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2)


def test_total_weighs_the_losses_as_equation_six(targets: DetectionTargets) -> None:
    criterion = criterion_of(2, OptimizerConfig())
    losses = criterion([dense_output(2)], targets)
    expected = losses["heatmap"] + losses["offset"] + 0.1 * losses["mixture"]
    torch.testing.assert_close(criterion.total(losses), expected)


@pytest.mark.parametrize("components", [0, 2])
def test_batch_without_any_object_trains_on_the_background(components: int) -> None:
    targets = detection_targets(torch.zeros(2, 1, 4), torch.full((2, 1), -1), 2, (16, 16))
    output = dense_output(components)
    criterion = criterion_of(components, OptimizerConfig())
    losses = criterion([at_cells(output, targets.index)], targets)
    assert losses["offset"] == 0
    assert losses["mixture" if components else "size"] == 0
    criterion.total(losses).backward()
    assert output["heatmap"].grad is not None
    assert output["heatmap"].grad.abs().sum() > 0
    for name in output.keys() - {"heatmap"}:
        gradient = output[name].grad
        assert gradient is None or (gradient == 0).all()


def test_missing_or_superfluous_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="mixture"):
        DetectionCriterion(3, {"heatmap": 1, "offset": 1, "size": 0.1})


def test_mixture_statistics_describe_the_objects(targets: DetectionTargets) -> None:
    output = dense_output(3)
    statistics = {name: value.item() for name, value in mixture_statistics(output, targets.index).items()}
    assert statistics == {
        name: pytest.approx(value.item())
        for name, value in mixture_statistics(at_cells(output, targets.index), targets.index).items()
    }
    assert sum(statistics[f"alpha_{m}"] for m in range(3)) == pytest.approx(1)
    assert all(statistics[f"sigma_{m}"] >= 1 for m in range(3))
    output["logits"] = torch.zeros(2, 3, 16, 16)
    assert mixture_statistics(output, targets.index)["alpha_entropy"].item() == pytest.approx(1)
    output["logits"] = torch.tensor([50.0, 0, 0])[None, :, None, None].expand(2, 3, 16, 16)
    assert mixture_statistics(output, targets.index)["alpha_entropy"].item() == pytest.approx(0, abs=1e-6)
