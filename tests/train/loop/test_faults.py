"""Faults from outside a run: it stops with one clear message, keeps its last checkpoint whole, and can go on."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mdnkernels.train.loop.trainer
from mdnkernels.train.__main__ import main
from mdnkernels.train.errors import CheckpointError, TrainingError
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.run.log import RunLog
from tests.train.drawn_data import DataPaths, tiny_fit
from tests.train.loop.test_engine import last, resume, state
from tests.train.test_command_line import fit_arguments


@contextlib.contextmanager
def full_disk(largest: int) -> Iterator[None]:
    """Let no file grow beyond `largest` bytes. Python ignores the signal, and the write fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def call_before_step(monkeypatch: pytest.MonkeyPatch, step: int, happen: Any) -> None:
    """Call `happen` before the step."""
    original = mdnkernels.train.loop.trainer.Trainer._train_step

    def with_fault(self: Any, batch: Any, number: int, parts: int) -> Any:
        if number == step:
            happen()
        return original(self, batch, number, parts)

    monkeypatch.setattr(mdnkernels.train.loop.trainer.Trainer, "_train_step", with_fault)


def test_disk_that_fills_up_keeps_the_last_checkpoint_and_is_named(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    limits = contextlib.ExitStack()
    call_before_step(monkeypatch, 3, lambda: limits.enter_context(full_disk(1 << 20)))
    with (
        limits,
        pytest.raises(
            CheckpointError, match=r"checkpoints/last\.pt: cannot be written: File too large; the checkpoint"
        ),
    ):
        fit(tiny_fit(drawn, run, epochs=3))
    assert state(run)["state"] == "failed"
    assert "last.pt: cannot be written" in state(run)["reason"]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.pt"]
    assert last(run).progress.step == 2
    monkeypatch.undo()
    resume(run)
    assert state(run)["state"] == "finished"


def test_disk_that_is_full_from_the_start_exits_2_and_leaves_no_run(
    drawn: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with full_disk(1 << 20):
        assert main(fit_arguments(drawn, tmp_path / "run")) == 2
    assert "last.pt: cannot be written: File too large" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_log_that_cannot_be_written_is_named_too(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **values: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunLog, "record", full)
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=f"{run}: No space left on device; the last checkpoint is kept; go on with"):
        fit(tiny_fit(drawn, run))
    assert state(run)["state"] == "failed"


def test_killed_data_worker_stops_the_run_which_goes_on_from_its_last_checkpoint(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_worker() -> None:
        worker = multiprocessing.active_children()[0]
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()

    call_before_step(monkeypatch, 3, kill_worker)
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"a process that loads images has died \(DataLoader worker .*--resume"):
        fit(tiny_fit(drawn, run, epochs=3, workers=1))
    assert state(run)["state"] == "failed"
    assert "fewer --workers" in state(run)["reason"]
    assert last(run).progress.step == 2
    monkeypatch.undo()
    resume(run)
    assert state(run)["state"] == "finished"
