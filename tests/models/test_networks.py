"""Claims that hold for both architectures and both tasks."""

import pytest
import torch
from torch import Tensor

from tests.models.networks import BOTH_ARCHITECTURES, BOTH_TASKS, IMAGES, assert_close, awake, training_loss

architectures = pytest.mark.parametrize("arch", BOTH_ARCHITECTURES)
tasks = pytest.mark.parametrize("task", BOTH_TASKS)


@pytest.mark.parametrize(
    ("arch", "task", "components"),
    [
        *((BOTH_ARCHITECTURES[0], task, components) for task in BOTH_TASKS for components in (0, 3)),
        ("dla34", "detection", 0),
        ("dla34", "pose", 3),
    ],
)
def test_sparse_training_has_the_loss_and_every_gradient_of_dense_training(
    arch: str, task: str, components: int, images: Tensor
) -> None:
    model = awake(arch, task, components)
    images = IMAGES.double().requires_grad_()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]

    def loss_and_gradients(sparse: bool) -> list[Tensor]:
        loss = training_loss(model, images, sparse=sparse)
        return [loss, *torch.autograd.grad(loss, [images, *(p for _, p in trained)])]

    names = ["loss", "images", *(name for name, _ in trained)]
    for name, ours, theirs in zip(names, loss_and_gradients(True), loss_and_gradients(False), strict=True):
        size = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(ours / size, theirs / size, rtol=0, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@architectures
@tasks
def test_predict_is_the_decoding_of_the_dense_maps(arch: str, task: str) -> None:
    model = awake(arch, task, 3).eval()
    images = IMAGES.double()
    assert_close(model.predict(images, k=20), model.decode(model(images)[-1], k=20))


@architectures
@tasks
@pytest.mark.parametrize("flip", [None, "stronger"])
def test_images_of_a_batch_do_not_mix(arch: str, task: str, flip: str | None) -> None:
    model = awake(arch, task, 3).eval()
    images = IMAGES.double()
    together = model.predict(images, k=8, flip=flip)
    for b, image in enumerate(images):
        alone = model.predict(image[None], k=8, flip=flip)
        assert_close(alone, type(alone)(*(values[b : b + 1] for values in together)))


@architectures
@tasks
def test_channels_last_changes_nothing(arch: str, task: str) -> None:
    planar = awake(arch, task, 3)
    blocked = awake(arch, task, 3).to(memory_format=torch.channels_last)
    images = IMAGES.double()
    blocked_images = images.contiguous(memory_format=torch.channels_last)
    losses = [training_loss(planar, images, sparse=True), training_loss(blocked, blocked_images, sparse=True)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-10, atol=0)
    for ours, theirs in zip(blocked.parameters(), planar.parameters(), strict=True):
        if theirs.grad is not None:
            size = max(1.0, theirs.grad.abs().max().item())
            torch.testing.assert_close(ours.grad / size, theirs.grad / size, rtol=0, atol=1e-9)
    assert_close(blocked.eval().predict(blocked_images, k=9), planar.eval().predict(images, k=9), 1e-8)


@architectures
@tasks
def test_bfloat16_autocast_trains_and_predicts(arch: str, task: str) -> None:
    model = awake(arch, task, 3, torch.float32)
    images = IMAGES
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = training_loss(model, images, sparse=True)
        found = model.eval().predict(images, k=5, flip="average")
        (maps,) = model(images)
    loss.backward()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad.isfinite().all(), name
    assert {values.dtype for values in found if values.is_floating_point()} == {torch.float32}
    assert all(values.isfinite().all() for values in found if values.is_floating_point())
    (exact,) = model(images)
    for name, values in exact.items():
        assert ((maps[name] - values).abs().mean() < 0.25 * values.std()).item(), name


@pytest.mark.parametrize(("task", "components"), [("detection", 0), ("pose", 3)])
def test_a_whole_network_traces_without_a_graph_break(task: str, components: int) -> None:
    _compare_compiled("hourglass_small", task, components, backend="aot_eager")


@pytest.mark.slow
@architectures
@tasks
def test_a_compiled_network_gives_what_eager_gives(arch: str, task: str) -> None:
    _compare_compiled(arch, task, 3, backend="inductor")


def _compare_compiled(arch: str, task: str, components: int, backend: str) -> None:
    model = awake(arch, task, components, torch.float32).eval()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        (ours,), (theirs,) = compiled(IMAGES), model(IMAGES)
    assert set(ours) == set(theirs)
    for name, values in theirs.items():
        torch.testing.assert_close(ours[name], values, rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
