"""Activation checkpointing: less is kept, nothing else changes."""

import pytest
import torch
from torch import Tensor

from mdnkernels.models import Backbone, Hourglass, HourglassConfig, build_model
from mdnkernels.models.recompute import Part
from tests.models.networks import BOTH_ARCHITECTURES, IMAGES, awake, training_loss


def kept_bytes(backbone: Backbone) -> int:
    """Return the bytes, without parameters, that autograd holds between the forward and the backward pass."""
    storages = {}

    def pack(values: Tensor) -> Tensor:
        if not isinstance(values, torch.nn.Parameter):
            storages[values.untyped_storage().data_ptr()] = values
        return values

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
        backbone(IMAGES)
        return sum(values.untyped_storage().nbytes() for values in storages.values())


@pytest.mark.parametrize("arch", BOTH_ARCHITECTURES)
def test_less_is_kept(arch: str) -> None:
    backbone = awake(arch, "detection", 0, torch.float32).backbone
    everything = kept_bytes(backbone)
    backbone.activation_checkpointing = True
    assert kept_bytes(backbone) < everything / 2


@pytest.mark.parametrize(("arch", "task"), [*zip(BOTH_ARCHITECTURES, ("pose", "detection"), strict=True)])
def test_a_step_has_the_same_loss_gradients_and_statistics_bit_for_bit(arch: str, task: str) -> None:
    plain, recomputing = awake(arch, task, 3, torch.float32), awake(arch, task, 3, torch.float32)
    recomputing.backbone.activation_checkpointing = True
    results = []
    for model in (plain, recomputing):
        images = IMAGES.clone().requires_grad_()
        loss = training_loss(model, images, sparse=True)
        loss.backward()
        results.append((loss, images.grad))
    (loss, gradient), (ours, ours_gradient) = results
    assert torch.equal(ours, loss)
    assert torch.equal(ours_gradient, gradient)
    for (name, p), q in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        assert (p.grad is None and q.grad is None) or torch.equal(q.grad, p.grad), name
    for (name, p), q in zip(plain.named_buffers(), recomputing.buffers(), strict=True):
        assert torch.equal(q, p), name


def test_parts_do_not_run_twice_without_gradients_or_in_evaluation() -> None:
    model = awake("hourglass_small", "detection", 0, torch.float32)
    model.backbone.activation_checkpointing = True
    runs = []
    model.backbone.stem.register_forward_pre_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        model(IMAGES)
    model.eval()(IMAGES)[0]["heatmap"].sum().backward()
    assert len(runs) == 2
    model.train()(IMAGES)[0]["heatmap"].sum().backward()
    assert len(runs) == 4


def test_stacks_recompute_what_joins_them() -> None:
    backbone = Hourglass(HourglassConfig(2, (8, 12), (1, 1), 4, 6)).double()
    images = IMAGES.double()
    results = []
    for on in (False, True):
        backbone.zero_grad()
        backbone.activation_checkpointing = on
        backbone(images)[1].square().mean().backward()
        results.append([p.grad for p in backbone.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_autocast_holds_in_the_second_forward_pass() -> None:
    gradients = []
    for on in (False, True):
        model = awake("hourglass_small", "detection", 3, torch.float32)
        model.backbone.activation_checkpointing = on
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = training_loss(model, IMAGES, sparse=True)
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_compiled_network_trains_as_without_it() -> None:
    gradients = []
    for on in (False, True):
        model = awake("hourglass_small", "detection", 0, torch.float32)
        model.backbone.activation_checkpointing = on
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager") if on else model
        compiled(IMAGES)[0]["heatmap"].square().mean().backward()
        gradients.append([p.grad for p in model.backbone.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("arch", BOTH_ARCHITECTURES)
def test_it_is_an_option_that_can_be_switched(arch: str) -> None:
    with torch.device("meta"):
        model = build_model(arch, components=3, activation_checkpointing=True)
        plain = build_model(arch, components=3)
    assert model.backbone.activation_checkpointing
    assert not plain.backbone.activation_checkpointing
    assert list(model.state_dict()) == list(plain.state_dict())
    model.backbone.activation_checkpointing = False
    assert not any(module.recompute for module in model.modules() if isinstance(module, Part))
