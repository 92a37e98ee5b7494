"""SIGKILL at any moment of a training process leaves no run, or one that --resume goes on from."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

from mdnkernels.train.run.checkpoint import load_checkpoint
from tests.processes import Process, module, python
from tests.train.drawn_data import DataPaths


def test_killed_training_goes_on_from_its_last_checkpoint(drawn: DataPaths, tmp_path: Path) -> None:
    run = tmp_path / "run"
    start = ["fit", "--run", str(run)]
    start += ["--train-images", str(drawn.images), "--train-annotations", str(drawn.annotations)]
    start += ["--input-size", "64", "--batch", "4", "--workers", "1", "--device", "cpu"]
    # Every step saves, so that most moments are moments of a write; far more epochs than there is time for.
    start += ["--epochs", "100000", "--checkpoint-minutes", "0", "--log-every", "1"]
    go_on = ["fit", "--resume", str(run)]
    chance = random.Random(1)
    saved = 0
    for arguments in (start, go_on, go_on):
        process = Process(module("train", *arguments))
        # A step is saved before the next one is reported.
        while f"step {saved + 2} " not in process.errors:
            assert not process.ended, process.errors
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.4))
        process.kill()
        reached = load_checkpoint(run / "checkpoints" / "last.pt").progress.step
        assert reached > saved
        saved = reached
    assert json.loads((run / "status.json").read_text())["state"] == "running"

    finish = python(module("train", *go_on, "--stop-after", "2"))
    assert finish.returncode == 0, finish.stderr
    assert load_checkpoint(run / "checkpoints" / "last.pt").progress.step == saved + 2
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    assert not list((run / "checkpoints").glob("*partial*"))


def test_killed_start_leaves_no_run_or_a_whole_one(drawn: DataPaths, tmp_path: Path) -> None:
    chance = random.Random(2)
    seen = set()
    for attempt in range(3):
        run = tmp_path / f"run{attempt}"
        arguments = ["fit", "--run", str(run), "--device", "cpu", "--workers", "0"]
        arguments += ["--train-images", str(drawn.images), "--train-annotations", str(drawn.annotations)]
        process = Process(module("train", *arguments))
        deadline = time.monotonic() + 60
        # The draft of the run appears first, and the kill falls somewhere around the rename; at first, just after it.
        while (
            not (run.exists() or (attempt and list(tmp_path.glob(f".run{attempt}*")))) and time.monotonic() < deadline
        ):
            time.sleep(0.002)
        assert not process.ended, process.errors
        time.sleep(chance.uniform(0, 0.08) if attempt else 0)
        process.kill()
        seen.add(run.exists())
        if run.exists():
            assert load_checkpoint(run / "checkpoints" / "last.pt").progress.step == 0
    assert True in seen
