"""Images that were not normalised are warned of: the network would find next to nothing, and say nothing."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from mdnkernels.models import build_model
from mdnkernels.models.export import export_inference

PIXELS = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
NORMALISED = (PIXELS / 255 - 0.45) / 0.28


def warnings_of(images: list[Tensor], method: str = "predict") -> list[str]:
    model = build_model("hourglass_tiny", num_classes=2, components=2).eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for one in images:
            getattr(model, method)(one)
    return [str(one.message) for one in caught if "normalis" in str(one.message) or "std" in str(one.message)]


@pytest.mark.parametrize("method", ["predict", "predict_each"])
@pytest.mark.parametrize(("images", "form"), [(PIXELS / 255, "given as x / 255"), (PIXELS, "given as x;")])
def test_pixels_in_another_scale_are_warned_of_once(images: Tensor, form: str, method: str) -> None:
    (message,) = warnings_of([images, images], method)
    assert form in message
    assert "mdnkernels.train.Predictor" in message


@pytest.mark.parametrize(
    "images",
    [
        NORMALISED,
        torch.zeros(1, 3, 64, 64),
        torch.full((1, 3, 64, 64), 0.3),  # a grey wall
        (PIXELS / 255 * 0.2 + 0.6 - 0.45) / 0.28,  # fog
        torch.empty(0, 3, 64, 64),
    ],
    ids=["photograph", "zeros", "wall", "fog", "nothing"],
)
def test_normalised_images_are_not(images: Tensor) -> None:
    assert warnings_of([images]) == []


def test_a_graph_is_exported_as_before() -> None:
    model = build_model("hourglass_tiny", num_classes=2, components=2).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        export_inference(model, PIXELS / 255, k=3)
