"""Batch norm folded into convolutions: the same outputs, and no batch norm left."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from mdnkernels.models import ARCHITECTURES, Detector, Hourglass, build_model, size_regression
from mdnkernels.models.dla import DeformableConv
from mdnkernels.models.folding import fold_batch_norms
from mdnkernels.models.hourglass import HOURGLASS104
from tests.models.networks import BOTH_ARCHITECTURES, IMAGES, assert_close, awake


def batch_norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._NormBase)]


def trained(model: nn.Module, side: int = 64) -> nn.Module:
    """Return the model in eval mode, as training would leave it.

    Weights, biases and statistics of its batch norms, and biases before them, are then not 0 or 1.
    """
    generator = torch.Generator().manual_seed(1)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
        nn.init.normal_(norm.bias, std=0.3, generator=generator)
        norm.momentum = 1.0
    for module in model.modules():
        if isinstance(module, DeformableConv):
            nn.init.normal_(module.bias, std=0.3, generator=generator)
    dtype = norms[0].weight.dtype
    with torch.no_grad():
        model.train().backbone(torch.randn(4, 3, side, side, generator=generator).to(dtype))
    return model.eval()


@pytest.mark.parametrize("arch", [*BOTH_ARCHITECTURES, "hourglass104, narrow"])
@torch.no_grad()
def test_a_folded_network_gives_the_same_maps(arch: str) -> None:
    if arch in BOTH_ARCHITECTURES:
        model, images = trained(awake(arch, "pose", 3)), IMAGES
    else:
        model, images = trained(narrow_hourglass104(), 256), torch.randn(1, 3, 256, 256)
    single = model.float()
    exact = copy.deepcopy(single).double()
    expected, own = exact(images.double()), single(images)
    for folded in (exact, single):
        assert batch_norms(folded)
        fold_batch_norms(folded)
        assert not batch_norms(folded)
    for found in zip(expected, exact(images.double()), own, single(images), strict=True):
        for name, right in found[0].items():
            error, own_error, single_error = (
                ((outputs[name] - right).abs().max() / right.abs().max()).item() for outputs in found[1:]
            )
            assert error < 1e-11, name
            # A network that enlarges the rounding of float32 to more than 1e-5 does so folded or not.
            assert single_error < max(1e-5, 3 * own_error), (name, own_error)


def narrow_hourglass104() -> Detector:
    """Return a detector as deep as hourglass104 and an eighth as wide, in float64."""
    dims = tuple(dim // 8 for dim in HOURGLASS104.dims)
    config = dataclasses.replace(HOURGLASS104, dims=dims, stem_width=16, feature_dim=32)
    torch.manual_seed(0)
    return Detector(Hourglass(config), head_width=8, num_classes=2, regression=size_regression(3)).double()


@pytest.mark.parametrize("arch", BOTH_ARCHITECTURES)
def test_a_folded_network_finds_the_same_poses(arch: str) -> None:
    model = trained(awake(arch, "pose", 3))
    images = IMAGES.double()
    expected = model.predict(images, k=5, flip="average")
    fold_batch_norms(model)
    assert_close(model.predict(images, k=5, flip="average"), expected)


def test_folding_twice_changes_nothing_more() -> None:
    model = awake("dla34", "detection", 3, torch.float32).eval()
    fold_batch_norms(model)
    once = {name: value.clone() for name, value in model.state_dict().items()}
    fold_batch_norms(model)
    assert all(torch.equal(value, once[name]) for name, value in model.state_dict().items())


def test_every_architecture_can_be_folded() -> None:
    """An architecture that is added later must fold too, or be named here if its batch norms follow no convolution."""
    for arch in ARCHITECTURES:
        with torch.device("meta"):
            model = build_model(arch, components=0).eval()
        assert batch_norms(model)
        fold_batch_norms(model)
        assert not batch_norms(model), arch


def test_a_network_in_training_mode_is_refused() -> None:
    model = awake("hourglass_small", "detection", 3).eval()
    before = batch_norms(model)
    model.backbone.stem.train()
    with pytest.raises(ValueError, match=r"backbone\.stem\.0\.1 is in training mode"):
        fold_batch_norms(model)
    assert batch_norms(model) == before
