"""The batched colour jitter against CenterNet's sequence of operations, image by image."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from train.colour import normalise

# As published, in BGR.
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
    """CenterNet's augmentation and normalisation of one (H, W, 3) uint8 image, in BGR as there; back to RGB planes."""
    image = rgb[..., ::-1].astype(np.float64) / 255
    grey = image @ (0.114, 0.587, 0.299)
    mean = grey.mean()
    for operation in order:
        factor = factors[operation]
        other = (0.0, mean, grey[..., None])[operation]
        image = image * factor + (1 - factor) * other if operation else image * factor
    image = image + BGR_EIGENVECTORS @ (EIGENVALUES * light)
    return ((image - BGR_MEAN) / BGR_STD)[..., ::-1].transpose(2, 0, 1)


def test_every_order_of_the_jitter_equals_the_sequence() -> None:
    rng = np.random.default_rng(0)
    orders = list(itertools.permutations(range(3)))
    images = rng.integers(0, 256, (6, 12, 17, 3), dtype=np.uint8)
    factors = 1 + rng.uniform(-0.4, 0.4, (6, 3))
    light = rng.normal(scale=0.1, size=(6, 3))
    colour = np.concatenate((factors, np.arange(6)[:, None], light), axis=1).astype(np.float32)
    planes = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    result = normalise(planes, torch.from_numpy(colour))
    for row in range(6):
        expected = one_after_the_other(images[row], factors[row], orders[row], light[row])
        np.testing.assert_allclose(result[row].numpy(), expected, atol=2e-5)


def test_identity_parameters_only_normalise() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 9), dtype=torch.uint8)
    identity = torch.tensor([[1.0, 1, 1, 0, 0, 0, 0]] * 2)
    expected = (images.double() / 255 - torch.tensor(BGR_MEAN[::-1].copy())[:, None, None]) / torch.tensor(
        BGR_STD[::-1].copy()
    )[:, None, None]
    for result in (normalise(images), normalise(images, identity)):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result.double(), expected, atol=2e-6, rtol=0)
