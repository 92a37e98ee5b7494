"""SIGKILL at any moment of a training process leaves no run, or one that --resume goes on from."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.train.drawn_data import ROOT, DataPaths
from train.run.checkpoint import load_checkpoint


def test_killed_training_goes_on_from_its_last_checkpoint(drawn: DataPaths, tmp_path: Path) -> None:
    run = tmp_path / "run"
    start = [sys.executable, "-m", "train", "fit", "--run", str(run)]
    start += ["--train-images", str(drawn.images), "--train-annotations", str(drawn.annotations)]
    start += ["--input-size", "64", "--batch", "4", "--workers", "1", "--device", "cpu"]
    # Every step saves, so that most moments are moments of a write; far more epochs than there is time for.
    start += ["--epochs", "100000", "--checkpoint-minutes", "0", "--log-every", "1"]
    go_on = [sys.executable, "-m", "train", "fit", "--resume", str(run)]
    chance = random.Random(1)
    saved = 0
    for arguments in (start, go_on, go_on):
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        # A step is saved before the next one is reported.
        while not next(lines).startswith(f"step {saved + 2} "):
            pass
        time.sleep(chance.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        reached = load_checkpoint(run / "checkpoints" / "last.pt").progress.step
        assert reached > saved
        saved = reached
    assert json.loads((run / "status.json").read_text())["state"] == "running"

    finish = subprocess.run([*go_on, "--stop-after", "2"], capture_output=True, text=True, cwd=ROOT)
    assert finish.returncode == 0, finish.stderr
    assert load_checkpoint(run / "checkpoints" / "last.pt").progress.step == saved + 2
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    assert not list((run / "checkpoints").glob("*partial*"))


def test_killed_start_leaves_no_run_or_a_whole_one(drawn: DataPaths, tmp_path: Path) -> None:
    chance = random.Random(2)
    seen = set()
    for attempt in range(3):
        run = tmp_path / f"run{attempt}"
        arguments = [sys.executable, "-m", "train", "fit", "--run", str(run), "--device", "cpu", "--workers", "0"]
        arguments += ["--train-images", str(drawn.images), "--train-annotations", str(drawn.annotations)]
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        deadline = time.monotonic() + 60
        # The draft of the run appears first, and the kill falls somewhere around the rename; at first, just after it.
        while (
            not (run.exists() or (attempt and list(tmp_path.glob(f".run{attempt}*")))) and time.monotonic() < deadline
        ):
            time.sleep(0.002)
        assert process.poll() is None, "the start failed by itself"
        time.sleep(chance.uniform(0, 0.08) if attempt else 0)
        process.send_signal(signal.SIGKILL)
        process.wait()
        seen.add(run.exists())
        if run.exists():
            assert load_checkpoint(run / "checkpoints" / "last.pt").progress.step == 0
    assert True in seen
