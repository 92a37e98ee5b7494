"""The share of time that training waits for its data, as the log has it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mdnkernels.train.data.sets import TrainingSet
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.loop.trainer import Trainer
from mdnkernels.train.run.log import read_log
from tests.train.drawn_data import DataPaths, tiny_fit


def measured_waits(data: DataPaths, run: Path) -> list[float]:
    """Return the waits of two epochs of two steps without the first step, which also warms everything up."""
    fit(tiny_fit(data, run, epochs=2))
    return [record["data_wait"] for record in read_log(run / "log.jsonl") if record["kind"] == "step"][1:]


def slowed(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, seconds: float) -> None:
    method = getattr(owner, name)

    def slow(*args: object) -> object:
        time.sleep(seconds)
        return method(*args)

    monkeypatch.setattr(owner, name, slow)


def test_slow_data_set_shows_in_the_log(drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slowed(monkeypatch, TrainingSet, "__getitem__", 0.5)  # four images to a step
    assert min(measured_waits(drawn, tmp_path / "run")) > 0.5


def test_slow_network_waits_for_little(drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slowed(monkeypatch, Trainer, "_train_step", 2.0)
    found = measured_waits(drawn, tmp_path / "run")
    assert len(found) == 3
    assert 0 < max(found) < 0.3
