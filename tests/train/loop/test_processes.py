"""Several processes train like one, evaluate every image once, stop together, and outlive the death of one of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mdnkernels.train.loop.engine import fit
from mdnkernels.train.run.checkpoint import Checkpoint, load_checkpoint
from mdnkernels.train.run.log import read_log
from tests.processes import Process, module
from tests.train.drawn_data import ROOT, DataPaths, tiny_fit
from tests.train.float64 import use_float64

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [
    *(str(Path(sys.executable).with_name("accelerate")), "launch"),
    *("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"),
    *("--dynamo_backend", "no", "--main_process_port", "0"),
]


def arguments(data: DataPaths, run: Path) -> list[str]:
    """Return the arguments of the run of `one_process`, with a checkpoint each step and seven images to evaluate on."""
    paths = ["--run", run, "--train-images", data.images, "--train-annotations", data.annotations]
    paths += ["--val-images", data.images, "--val-annotations", data.annotations, "--val-limit", 7]
    size = ["--input-size", 64, "--workers", 1, "--batch", 4, "--epochs", 3, "--drop-epochs", 1, "--components", 2]
    options = ["--sync-batch-norm", "--ema", 0.5, "--no-augment", "--device", "cpu"]
    return [str(value) for value in ["fit", *paths, *size, *options, "--log-every", 1, "--checkpoint-minutes", 0]]


def launch(*command: str) -> subprocess.CompletedProcess[str]:
    # Else processes that torchrun has restarted read the addresses of those that died (pytorch issue 135712).
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )
    try:
        output, errors = process.communicate(timeout=150)
    except BaseException:
        process.terminate()  # SIGKILL would leave torchrun's processes behind
        process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def two_ranks(script: str) -> list[subprocess.CompletedProcess[str]]:
    """Run `script` as the two processes that torchrun starts on one machine, without torchrun, whose start is long."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [Process(script, RANK=rank, LOCAL_RANK=rank, **common) for rank in "01"]
    try:
        return [rank.end() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


def torchrun(data: DataPaths, run: Path, fault: str = "none", step: int = 0, restarts: int = 0) -> Any:
    # Without "--" torchrun takes --run for a short form of its own --run-path.
    options = ["--max-restarts", str(restarts), "-m", "--", "tests.train.one_rank", fault, str(step)]
    return launch(*TORCHRUN, *options, *arguments(data, run))


def last(run: Path) -> Checkpoint:
    return load_checkpoint(run / "checkpoints" / "last.pt")


def state(run: Path) -> Any:
    return json.loads((run / "status.json").read_text())


def detections(run: Path) -> Any:
    return json.loads((run / "evaluation" / "detections.json").read_text())


@pytest.fixture(scope="module")
def one_process(drawn: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    val = {"val_images": drawn.images, "val_annotations": drawn.annotations, "val_limit": 7}
    config = tiny_fit(drawn, tmp_path_factory.mktemp("one") / "run", epochs=3, ema=0.5, augment=False, **val)
    with pytest.MonkeyPatch.context() as patch:
        use_float64(patch.setattr)
        return fit(config)


@pytest.fixture(scope="module")
def two_processes(drawn: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("two") / "run"
    for done in two_ranks(module("tests.train.one_rank", "none", "0", *arguments(drawn, run))):
        assert done.returncode == 0, done.stderr
    return run


def test_two_processes_train_to_the_weights_of_one(one_process: Path, two_processes: Path) -> None:
    one, two = last(one_process), last(two_processes)
    assert two.progress == one.progress
    for ours, theirs in ((one.model, two.model), (one.average, two.average)):
        assert ours is not None
        assert theirs is not None
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-5, atol=1e-5, msg=name)
    steps = [[r for r in read_log(run / "log.jsonl") if r["kind"] == "step"] for run in (one_process, two_processes)]
    for alone, together in zip(*steps, strict=True):
        for name in ("loss/heatmap", "loss/offset", "loss/mixture", "loss/total"):
            assert together[name] == pytest.approx(alone[name], rel=1e-5)


def test_two_processes_count_the_objects_of_both(one_process: Path, two_processes: Path) -> None:
    for kind, prefix in (("step", "mixture/"), ("epoch", "mixture_epoch/")):
        alone, together = (
            [
                {name: value for name, value in record.items() if name.startswith(prefix)}
                for record in read_log(run / "log.jsonl")
                if record["kind"] == kind
            ]
            for run in (one_process, two_processes)
        )
        assert [len(values) for values in alone] == [8] * (6 if kind == "step" else 3)
        for one, two in zip(alone, together, strict=True):
            assert two == pytest.approx(one, rel=1e-5)


def test_two_processes_evaluate_each_of_an_odd_number_of_images_once(one_process: Path, two_processes: Path) -> None:
    ones, twos = detections(one_process), detections(two_processes)
    assert {entry["image_id"] for entry in twos} == set(range(1, 8))
    assert [entry["image_id"] for entry in twos] == [entry["image_id"] for entry in ones]
    assert [entry["score"] for entry in twos] == pytest.approx([entry["score"] for entry in ones], abs=1e-4)


@pytest.mark.long
def test_rank_that_is_killed_is_restarted_and_the_run_ends_as_if_nothing_had_happened(
    drawn: DataPaths, tmp_path: Path, two_processes: Path
) -> None:
    run = tmp_path / "run"
    done = torchrun(drawn, run, "kill", 4, restarts=1)
    assert done.returncode == 0, done.stderr
    assert "another process of this run has died" in done.stderr
    assert "1 of 3 epochs done" in done.stderr  # by the processes that went on
    assert state(run) == {"state": "finished", "reason": None}
    ours, theirs = last(run), last(two_processes)
    assert ours.progress == theirs.progress
    for name, value in theirs.model.items():
        assert torch.equal(ours.model[name], value), name
    assert detections(run) == detections(two_processes)


@pytest.mark.slow
def test_signal_to_one_process_stops_all_after_the_same_step(drawn: DataPaths, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = torchrun(drawn, run, "terminate", 3)
    assert done.returncode == 0, done.stderr
    assert f"stopped (SIGTERM) after step 3; go on with --resume {run}" in done.stderr
    assert state(run) == {"state": "interrupted", "reason": "SIGTERM"}
    assert last(run).progress.step == 3


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["interrupt", "ctrl-c"])
def test_ctrl_c_stops_all_after_the_same_step_and_torchrun_fails(drawn: DataPaths, tmp_path: Path, fault: str) -> None:
    run = tmp_path / "run"
    done = torchrun(drawn, run, fault, 3)
    assert done.returncode not in (0, -signal.SIGKILL)
    assert f"stopped (SIGINT) after step 3; go on with --resume {run}" in done.stderr
    assert state(run) == {"state": "interrupted", "reason": "SIGINT"}
    assert last(run).progress.step == 3


@pytest.mark.slow
def test_loss_that_is_not_finite_in_one_process_stops_all_and_names_every_image(
    drawn: DataPaths, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = torchrun(drawn, run, "nan", 4)
    assert done.returncode != 0
    assert done.stderr.count("error: step 4: the loss is not finite") == 2
    assert state(run)["state"] == "failed"
    assert state(run)["reason"].count(",") == 3 + 3  # four losses and four images, listed
    assert last(run).progress.step == 3


@pytest.mark.slow
def test_accelerate_launch_starts_the_processes_too(drawn: DataPaths, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = launch(*ACCELERATE, "-m", "train", *arguments(drawn, run), "--stop-after", "1")
    assert done.returncode == 0, done.stderr
    assert state(run)["state"] == "interrupted"
    assert last(run).progress.step == 1
