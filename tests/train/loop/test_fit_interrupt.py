"""Ctrl-C and SIGTERM end a training in good order. After Ctrl-C a script does not run what follows it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mdnkernels.train.inference.evaluation
import mdnkernels.train.loop.trainer
from mdnkernels.train.__main__ import main
from mdnkernels.train.loop.engine import fit
from tests.train.drawn_data import DataPaths, tiny_fit
from tests.train.loop.test_engine import last, resume, state
from tests.train.test_command_line import fit_arguments


def send_at_step(monkeypatch: pytest.MonkeyPatch, step: int, *signals: int) -> None:
    """Send this process the signals in the middle of a step."""
    original = mdnkernels.train.loop.trainer.Trainer._train_step

    def with_signal(self: Any, batch: Any, number: int, parts: int) -> Any:
        if number == step:
            for one in signals:
                os.kill(os.getpid(), one)
        return original(self, batch, number, parts)

    monkeypatch.setattr(mdnkernels.train.loop.trainer.Trainer, "_train_step", with_signal)


@pytest.fixture(autouse=True)
def handlers_come_back() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_ctrl_c_finishes_the_step_saves_and_is_passed_on(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_at_step(monkeypatch, 3, signal.SIGINT)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_fit(drawn, run, epochs=3))
    assert state(run) == {"state": "interrupted", "reason": "SIGINT"}
    assert last(run).progress.step == 3
    resume(run)
    assert state(run) == {"state": "finished", "reason": None}
    assert last(run).progress.step == 6


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_status_of_an_interrupted_fit(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    number: signal.Signals, status: int,
) -> None:  # fmt: skip
    send_at_step(monkeypatch, 1, number)
    run = tmp_path / "run"
    assert main(fit_arguments(drawn, run)) == status
    assert f"stopped ({number.name}) after step 1; go on with --resume {run}" in capsys.readouterr().err
    assert state(run) == {"state": "interrupted", "reason": number.name}
    assert last(run).progress.step == 1
    assert main(["fit", "--resume", str(run), "--stop-after", "1"]) == 0


def test_second_ctrl_c_ends_at_once(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    send_at_step(monkeypatch, 2, signal.SIGINT, signal.SIGINT)
    run = tmp_path / "run"
    assert main(fit_arguments(drawn, run)) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert state(run) == {"state": "interrupted", "reason": "a second interruption, since the last checkpoint"}
    assert last(run).progress.step == 0


@pytest.mark.parametrize(("during", "number"), [(1, signal.SIGINT), (2, signal.SIGINT), (2, signal.SIGTERM)])
def test_evaluation_stops_after_its_batch(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    during: int, number: signal.Signals,
) -> None:  # fmt: skip
    """Each of the two evaluations, one after each epoch, has eight batches."""
    looks: list[int] = []
    predict_batch = mdnkernels.train.inference.evaluation.predict_batch

    def with_signal(*arguments: Any) -> Any:
        looks.append(1)
        if len(looks) == 8 * (during - 1) + 3:
            os.kill(os.getpid(), number)
        return predict_batch(*arguments)

    monkeypatch.setattr(mdnkernels.train.inference.evaluation, "predict_batch", with_signal)
    run = tmp_path / "run"
    val = ["--val-images", str(drawn.images), "--val-annotations", str(drawn.annotations), "--evaluate-every", "1"]
    more = ["--epochs", "2", "--batch", "1", "--train-limit", "2"]
    status = main(fit_arguments(drawn, run, *val, *more))
    assert status == (130 if number == signal.SIGINT else 0)
    assert len(looks) == 8 * (during - 1) + 3
    assert state(run) == {"state": "interrupted", "reason": number.name}
    assert last(run).progress.epoch == during
    written = f"stopped ({number.name}) in the evaluation after epoch {during}; --resume {run} "
    assert written + ("leaves it out and goes on" if during == 1 else "does it") in capsys.readouterr().err
    assert (run / "evaluation").exists() == (during == 2)

    assert main(["fit", "--resume", str(run)]) == 0
    assert state(run) == {"state": "finished", "reason": None}
    assert len(looks) == 8 * during + 3
    assert len(json.loads((run / "evaluation" / "detections.json").read_text())) > 0
