"""The drawn data set, and the folder of real photographs where it exists."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.train.animals import draw_animals
from tests.train.drawn_data import DataPaths, draw_data_set


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Take one thread: networks this small only wait for their threads, above all where processes share the cores."""
    before, inherited = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
    yield
    torch.set_num_threads(before)
    if inherited is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = inherited


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> DataPaths:
    """Write the data set that tests only read."""
    return draw_data_set(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="session")
def animals(tmp_path_factory: pytest.TempPathFactory) -> DataPaths:
    """Draw animals with five keypoints, which tests only read."""
    return draw_animals(tmp_path_factory.mktemp("animals"))


@pytest.fixture
def drawn_copy(tmp_path: Path) -> DataPaths:
    """Write a data set that one test may break."""
    return draw_data_set(tmp_path / "data")


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """Yield the warnings of the training package as they come. (pytest's caplog is switched off in this project.)"""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("mdnkernels.train")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """Return the folder of the real photographs: $MDNKERNELS_DATA, or ../shared/data beside the checkout."""
    root = Path(os.environ.get("MDNKERNELS_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    folder = root / "coco-mini"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there (set MDNKERNELS_DATA to the folder that holds coco-mini)")
    return folder
