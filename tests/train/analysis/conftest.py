"""Small trained runs, which the tests of all analyses only add evaluations to."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdnkernels.train.loop.engine import fit
from tests.train.animals import SIGMAS
from tests.train.drawn_data import DataPaths, tiny_fit


@pytest.fixture(scope="session")
def runs(drawn: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train "mixture" and "base", evaluated after each of two epochs, and return their folder."""
    folder = tmp_path_factory.mktemp("analysed")
    val = {"val_images": drawn.images, "val_annotations": drawn.annotations}
    for name, components in (("mixture", 2), ("base", 0)):
        fit(tiny_fit(drawn, folder / name, components=components, evaluate_every=1, lr=1e-3, **val))
    return folder


@pytest.fixture(scope="session")
def pose_run(animals: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a mixture of poses for an epoch."""
    path = tmp_path_factory.mktemp("poses") / "poses"
    val = {"val_images": animals.images, "val_annotations": animals.annotations}
    return fit(tiny_fit(animals, path, task="pose", epochs=1, keypoint_sigmas=SIGMAS, **val))
