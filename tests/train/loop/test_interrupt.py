"""Ctrl-C outside of training: status 130, no traceback, nothing half-written, no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import mdnkernels.train.inference.evaluation
from mdnkernels.train.__main__ import main
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.loop.interrupt import end_at_once_on_interrupt, sigint_ignored
from tests.train.drawn_data import ROOT, DataPaths, tiny_fit


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    code = f"import os, signal, subprocess, sys\nfrom mdnkernels.train.loop.interrupt import *\n{code}"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, **options)


def test_during_imports_it_ends_the_process_at_once() -> None:
    done = python("with end_at_once_on_interrupt():\n    os.kill(os.getpid(), signal.SIGINT)\n    print('went on')")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_where_it_is_ignored_it_stays_ignored() -> None:
    """nohup and a script's & start a process in the background with Ctrl-C ignored."""
    code = "with end_at_once_on_interrupt():\n    os.kill(os.getpid(), signal.SIGINT)\n    print('went on')"
    ignored = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    assert python(code, preexec_fn=ignored).stdout == "went on\n"


def test_a_process_that_is_started_meanwhile_ignores_it() -> None:
    child = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('went on')"
    done = python(f"with sigint_ignored():\n    subprocess.run([sys.executable, '-c', {child!r}])")
    assert (done.returncode, done.stdout) == (0, "went on\n")


def test_the_handler_comes_back_and_other_threads_have_none() -> None:
    handler = signal.getsignal(signal.SIGINT)
    for context in (end_at_once_on_interrupt, sigint_ignored):
        with context():
            assert signal.getsignal(signal.SIGINT) is not handler
        assert signal.getsignal(signal.SIGINT) is handler
    errors: list[BaseException] = []

    def in_thread() -> None:
        try:
            with end_at_once_on_interrupt():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert not errors


def test_an_interrupted_evaluation_writes_nothing(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    val = {"val_images": drawn.images, "val_annotations": drawn.annotations, "val_limit": 2}
    run = fit(tiny_fit(drawn, tmp_path / "run", epochs=1, train_limit=4, **val))
    before = {path.name: path.read_bytes() for path in (run / "evaluation").iterdir()}
    predict_batch = mdnkernels.train.inference.evaluation.predict_batch

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return predict_batch(*arguments)

    monkeypatch.setattr(mdnkernels.train.inference.evaluation, "predict_batch", interrupted)
    capsys.readouterr()
    assert main(["evaluate", str(run), "--workers", "1", "--device", "cpu"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert {path.name: path.read_bytes() for path in (run / "evaluation").iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_its_trainings(tmp_path: Path, number: signal.Signals) -> None:
    """The signal reaches the first process alone, as from `kill`. A terminal sends it to all of them."""
    command = [sys.executable, "-m", "train", "demo", "--output", str(tmp_path / "demo"), "--train-pictures", "400"]
    command += ["--val-pictures", "10", "--tasks", "detection", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stderr is not None
    while ": step " not in (line := process.stderr.readline()):
        assert line, "the demo ended by itself"
    process.send_signal(number)
    # Both trainings hold the pipe open while they run.
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in rest
