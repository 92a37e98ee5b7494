"""The batched colour jitter against CenterNet's sequence of operations, image by image."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mdnkernels import native
from mdnkernels.train.data.colour import normalise
from tests.native.simd import LEVELS, run_at_level

# The published constants, in BGR.
BGR_MEAN = np.array([0.40789654, 0.44719302, 0.47026115])
BGR_STD = np.array([0.28863828, 0.27408164, 0.27809835])
EIGENVALUES = np.array([0.2141788, 0.01817699, 0.00341571])
BGR_EIGENVECTORS = np.array(
    [
        [-0.58752847, -0.69563484, 0.41340352],
        [-0.5832747, 0.00994535, -0.81221408],
        [-0.56089297, 0.71832671, 0.41158938],
    ]
)


def one_after_the_other(rgb: np.ndarray, factors: np.ndarray, order: tuple[int, ...], light: np.ndarray) -> np.ndarray:
    """Augment and normalise one (H, W, 3) uint8 image in CenterNet's order and in its BGR; return RGB planes."""
    image = rgb[..., ::-1].astype(np.float64) / 255
    grey = image @ (0.114, 0.587, 0.299)
    mean = grey.mean()
    for operation in order:
        factor = factors[operation]
        other = (0.0, mean, grey[..., None])[operation]
        image = image * factor + (1 - factor) * other if operation else image * factor
    image = image + BGR_EIGENVECTORS @ (EIGENVALUES * light)
    return ((image - BGR_MEAN) / BGR_STD)[..., ::-1].transpose(2, 0, 1)


@pytest.fixture(params=["native, planes", "native, interleaved", "PyTorch"])
def laid_out(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[np.ndarray], Tensor]:
    """Return a function that makes a batch of (B, H, W, 3) images, with the library and without."""
    if request.param == "PyTorch":
        monkeypatch.setattr(native, "problem", "as if it was not built")
    elif native.problem is not None:
        pytest.skip(native.problem)

    def lay_out(images: np.ndarray) -> Tensor:
        batch = torch.from_numpy(images).permute(0, 3, 1, 2)
        return batch if request.param == "native, interleaved" else batch.contiguous()

    return lay_out


def test_every_order_of_the_jitter_equals_the_sequence(laid_out: Callable[[np.ndarray], Tensor]) -> None:
    rng = np.random.default_rng(0)
    orders = list(itertools.permutations(range(3)))
    images = rng.integers(0, 256, (6, 120, 171, 3), dtype=np.uint8)
    factors = 1 + rng.uniform(-0.4, 0.4, (6, 3))
    light = rng.normal(scale=0.1, size=(6, 3))
    colour = np.concatenate((factors, np.arange(6)[:, None], light), axis=1).astype(np.float32)
    result = normalise(laid_out(images), torch.from_numpy(colour))
    assert result.is_contiguous()
    for row in range(6):
        expected = one_after_the_other(images[row], factors[row], orders[row], light[row])
        np.testing.assert_allclose(result[row].numpy(), expected, atol=2e-5)


def test_identity_parameters_only_normalise(laid_out: Callable[[np.ndarray], Tensor]) -> None:
    images = laid_out(np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3), dtype=np.uint8))
    identity = torch.tensor([[1.0, 1, 1, 0, 0, 0, 0]] * 2)
    expected = (images.double() / 255 - torch.tensor(BGR_MEAN[::-1].copy())[:, None, None]) / torch.tensor(
        BGR_STD[::-1].copy()
    )[:, None, None]
    for result in (normalise(images), normalise(images, identity)):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result.double(), expected, atol=2e-6, rtol=0)


@pytest.mark.skipif(native.problem is not None, reason=str(native.problem))
@pytest.mark.parametrize("level", LEVELS)
def test_every_simd_level_of_this_machine_agrees_with_float64(level: str) -> None:
    script = """
import torch
from mdnkernels import native
print("level", native.simd_level())
images = torch.randint(0, 256, (2, 131, 257, 3), dtype=torch.uint8)
images[0] = 255
assert torch.equal(native.channel_sums(images), images.long().sum((1, 2)))
matrix, offset = torch.randn(2, 3, 3), torch.randn(2, 3)
expected = torch.einsum("bck,bhwk->bchw", matrix.double(), images.double()) + offset.double()[..., None, None]
torch.testing.assert_close(native.mix_channels(images, matrix, offset).double(), expected, rtol=1e-5, atol=1e-4)
one_thread = native.mix_channels(images, matrix, offset)
torch.set_num_threads(3)
assert torch.equal(native.mix_channels(images, matrix, offset), one_thread)
"""
    assert f"level {level}" in run_at_level(script, level)
