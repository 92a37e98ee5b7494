"""The losses of poses: each loss against its formula, and sparse heads against dense ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from mdnkernels.models import COCO_PERSON, MixtureRegression, build_model
from mdnkernels.models.network import Network
from mdnkernels.train.config.options import ModelConfig, OptimizerConfig
from mdnkernels.train.data.coco import Category
from mdnkernels.train.tasks import make_task
from mdnkernels.train.tasks.criterion import Criterion
from mdnkernels.train.tasks.detection import DetectionTask
from mdnkernels.train.tasks.pose import PoseTargets, PoseTask, pose_targets
from tests.models.networks import BOTH_ARCHITECTURES, awake

# Weights of their own, so that no two losses can be taken for one another.
WEIGHTS = OptimizerConfig(heatmap_weight=1, offset_weight=0.7, size_weight=0.3, pose_weight=0.11, keypoint_weight=1.9)
JOINTS = len(COCO_PERSON.names)


def people(size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return two images: two people with one centre, one at the border, one without keypoints; and one person alone."""
    height, width = (4.0 * side for side in size)
    boxes = torch.zeros(2, 4, 4)
    boxes[0] = torch.tensor(
        [[4, 4, 28, 28], [4, 4, 28.5, 28.5], [width - 12, height - 20, width, height], [30, 2, 44, 30]]
    )
    boxes[1, 0] = torch.tensor([0, 0, 20, 12])
    labels = torch.tensor([[0, 0, 0, 0], [0, -1, -1, -1]])
    generator = torch.Generator().manual_seed(4)
    extent = torch.tensor([width, height])
    points = extent * (1.2 * torch.rand(2, 4, JOINTS, 2, generator=generator) - 0.1)  # some outside
    visible = torch.randint(3, (2, 4, JOINTS, 1), generator=generator)
    visible[0, 3] = 0
    return boxes, labels, torch.cat((points, visible), -1)


def outputs_and_targets(components: int) -> tuple[dict[str, Tensor], PoseTargets]:
    """Return one stack's maps of 8 x 16 cells, and their targets."""
    generator = torch.Generator().manual_seed(1)
    channels = {"heatmap": 1, "offset": 2, "size": 2, "keypoint_heatmap": JOINTS, "keypoint_offset": 2}
    if components:
        channels |= {"logits": components, "loc": 2 * JOINTS * components, "scale": 2 * components}
    else:
        channels["keypoints"] = 2 * JOINTS
    maps = {name: torch.randn(2, count, 8, 16, generator=generator) for name, count in channels.items()}
    return maps, pose_targets(*people((8, 16)), (8, 16))


def criterion(components: int, **options: float) -> Criterion:
    task = PoseTask([Category(1, "person")])
    return task.criterion(task.build_model(ModelConfig(task="pose", components=components, **options)), WEIGHTS)


@pytest.mark.parametrize("min_scale", [None, 2.5])
def test_the_mixture_loss_is_that_of_a_distribution_over_the_observed_keypoints(min_scale: float | None) -> None:
    maps, targets = outputs_and_targets(3)
    expected = []
    for image in range(2):
        for person in range(4):
            seen = targets.observed[image, :, person].repeat_interleave(2)
            if targets.index[image, person] < 0 or not seen.any():
                continue
            y, x = divmod(targets.index[image, person].item(), 16)
            logits, loc, raw = (maps[name][image, :, y, x].double() for name in ("logits", "loc", "scale"))
            sigma = torch.nn.functional.elu(raw).view(3, 1, 2) + 1 + (9.0 if min_scale is None else min_scale)
            sigma = (sigma * torch.tensor(COCO_PERSON.sigmas, dtype=torch.float64)[:, None]).flatten(1)
            poses = Independent(Normal(loc.view(3, -1)[:, seen], sigma[:, seen]), 1)
            pose = targets.keypoints[image, :, person].double()[seen]
            expected.append(-MixtureSameFamily(Categorical(logits=logits), poses).log_prob(pose))
    assert len(expected) == 4
    loss = criterion(3, min_scale=min_scale)([maps], targets)["mixture"]
    torch.testing.assert_close(loss.double(), torch.stack(expected).mean(), rtol=1e-5, atol=0)


def test_l1_losses_are_means_over_what_is_observed() -> None:
    maps, targets = outputs_and_targets(0)
    losses = criterion(0)([maps], targets)
    person, keypoint = (index[:, None] >= 0 for index in (targets.index, targets.keypoint_index))
    for name, output, index, target, observed in (
        ("offset", "offset", targets.index, targets.offset, person),
        ("size", "size", targets.index, targets.size, person),
        ("keypoint_offset", "keypoint_offset", targets.keypoint_index, targets.keypoint_offset, keypoint),
        ("pose", "keypoints", targets.index, targets.keypoints, targets.observed.repeat_interleave(2, 1)),
    ):
        differences = [
            abs(maps[output][image, d].flatten()[index[image, n]] - target[image, d, n])
            for image in range(2)
            for d in range(target.shape[1])
            for n in range(target.shape[2])
            if observed[image, min(d, observed.shape[1] - 1), n]
        ]
        torch.testing.assert_close(losses[name], torch.stack(differences).mean(), msg=name)


def test_the_total_weighs_each_loss() -> None:
    maps, targets = outputs_and_targets(2)
    one = criterion(2)
    losses = one([maps], targets)
    weights = {"heatmap": 1, "offset": 0.7, "size": 0.3, "mixture": 0.11}
    weights |= {"keypoint_heatmap": 1.9, "keypoint_offset": 1.9}
    assert losses.keys() == weights.keys()
    torch.testing.assert_close(one.total(losses), sum(weights[name] * loss for name, loss in losses.items()))


def test_images_without_people_train_on_the_background() -> None:
    maps, _ = outputs_and_targets(2)
    for values in maps.values():
        values.requires_grad_()
    empty = pose_targets(torch.zeros(2, 1, 4), torch.full((2, 1), -1), torch.zeros(2, 1, JOINTS, 3), (8, 16))
    one = criterion(2)
    losses = one([maps], empty)
    assert all(losses[name] == 0 for name in ("offset", "size", "mixture", "keypoint_offset"))
    one.total(losses).backward()
    for name, values in maps.items():
        assert values.grad is not None
        assert bool(values.grad.any()) == name.endswith("heatmap"), name


@pytest.mark.parametrize("arch", BOTH_ARCHITECTURES)
@pytest.mark.parametrize("task", ["detection", "pose"])
@pytest.mark.parametrize("components", [0, 3])
def test_sparse_and_dense_heads_train_alike(arch: str, task: str, components: int) -> None:
    """Loss and every parameter's gradient agree, with people who share a centre, at borders, and without keypoints."""
    model = awake(arch, task, components).double()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    boxes, labels, keypoints = people((16, 16))
    batch = {"boxes": boxes, "labels": labels, "keypoints": keypoints}
    categories = [Category(number, str(number)) for number in range(1 if task == "pose" else 3)]
    kind = make_task(task, categories)
    targets = kind.targets(batch, (16, 16), 4)
    targets = targets._make(value.double() if value.is_floating_point() else value for value in targets)
    criterion = kind.criterion(model, WEIGHTS).double()
    sparse, dense = (
        total_and_gradients(model, criterion, outputs, targets)
        for outputs in (kind.outputs(model, images, targets), model(images))
    )
    for name, one in sparse.items():
        torch.testing.assert_close(one, dense[name], rtol=1e-10, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}")


def total_and_gradients(
    model: Network, criterion: Criterion, outputs: list[dict[str, Tensor]], targets: PoseTargets
) -> dict[str, Tensor]:
    model.zero_grad()
    total = criterion.total(criterion(outputs, targets))
    total.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = {name: parameter.grad.clone() for name, parameter in trained.items()}
    assert sum(bool(gradient.any()) for gradient in gradients.values()) > 0.9 * len(gradients)
    return {"total": total.detach(), **gradients}


def test_the_configured_least_scale_reaches_network_and_criterion() -> None:
    task, boxes = PoseTask([Category(1, "person")]), DetectionTask([Category(1, "thing")])
    assert floor(task.build_model(ModelConfig(task="pose"))) == 9
    assert floor(boxes.build_model(ModelConfig())) == floor(build_model("hourglass_small", components=1)) == 1
    model = task.build_model(ModelConfig(task="pose", min_scale=0.25))
    assert floor(model) == 0.25
    assert task.criterion(model, WEIGHTS).regression is model.regression


def floor(model: Network) -> float:
    """Return the least sigma that the network's own prediction can have."""
    regression = model.regression
    assert isinstance(regression, MixtureRegression)
    values = [torch.full((1, count, 1), -1e4) for count in regression.channels.values()]
    return float(regression.mode(values).scale.min())
