"""A run directory appears whole, is never written over, and says how its run stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mdnkernels.train.errors import ConfigError
from mdnkernels.train.run.directory import RunDirectory
from mdnkernels.train.run.log import LossMeter, RunLog, read_log
from tests.train.drawn_data import DataPaths, tiny_fit


def create(path: Path) -> RunDirectory:
    config = tiny_fit(DataPaths(Path("images"), Path("list.json")), path)
    return RunDirectory.create(path, config, lambda checkpoint: checkpoint.write_text("first"))


def test_new_run_has_everything_from_the_start(tmp_path: Path) -> None:
    run = create(tmp_path / "deep" / "run")
    assert run.read_config().run == run.path
    assert run.last.read_text() == "first"
    assert json.loads(run.status.read_text())["state"] == "running"
    assert read_log(run.log) == []
    assert [entry.name for entry in run.path.parent.iterdir()] == ["run"]


def test_failure_while_it_is_made_leaves_no_run(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise OSError(28, "No space left on device")

    config = tiny_fit(DataPaths(Path("images"), Path("list.json")), tmp_path / "run")
    with pytest.raises(OSError, match="No space"):
        RunDirectory.create(tmp_path / "run", config, fail)
    assert list(tmp_path.iterdir()) == []


def test_existing_run_is_not_written_over(tmp_path: Path) -> None:
    create(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"run: is there already; go on with it by --resume"):
        create(tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is there already"):
        create(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert create(tmp_path / "empty").last.is_file()


def test_run_that_came_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "run"
    config = tiny_fit(DataPaths(Path("images"), Path("list.json")), path)

    def another_is_faster(checkpoint: Path) -> None:
        path.mkdir()
        (path / "config.json").write_text("theirs")

    with pytest.raises(ConfigError, match="is there already"):
        RunDirectory.create(path, config, another_is_faster)
    assert (path / "config.json").read_text() == "theirs"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_opening_removes_what_a_killed_process_was_writing(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    (run.last.parent / "last.pt.partial-77").touch()
    (run.path / "status.json.partial-77").touch()
    RunDirectory.open(run.path)
    assert not list(run.path.rglob("*partial*"))
    with pytest.raises(ConfigError, match="is not a run directory"):
        RunDirectory.open(tmp_path)


def test_log_goes_on_after_the_checkpoint_and_forgets_what_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.touch()
    log = RunLog(path, step=0, steps=5)
    for step in (1, 2, 3):
        log.record("step", step=step, epoch=1, **{"loss/total": step / 2, "broken": float("nan")})
    log.close()
    with path.open("a") as file:
        file.write('{"kind": "step", "st')  # a killed process was writing
    RunLog(path, step=2, steps=5).close()
    records = read_log(path)
    assert [record["step"] for record in records] == [1, 2]
    assert records[1]["loss/total"] == 1.0
    assert "broken" not in records[1]
    assert len(list(tmp_path.glob("events.out.*"))) == 2


def test_meter_reads_means_and_starts_anew() -> None:
    meter = LossMeter()
    meter.add({"total": torch.tensor(2.0)}, images=4, waited=0.1, seconds=0.5)
    meter.add({"total": torch.tensor(4.0)}, images=4, waited=0.1, seconds=1.5)
    assert meter.read() == {
        "loss/total": pytest.approx(3),
        "images_per_second": pytest.approx(4),
        "data_wait": pytest.approx(0.1),
    }
    meter.add({"total": torch.tensor(7.0)}, images=1, waited=0.0, seconds=1.0)
    assert meter.read()["loss/total"] == 7


def test_files_that_are_nested_without_end_stop_nothing(tmp_path: Path) -> None:
    run = create(tmp_path / "run")
    endless = 200_000 * "["
    run.log.write_text(f'{{"step": 1}}\n{endless}\n')
    assert read_log(run.log) == [{"step": 1}]
    run.status.write_text(endless)
    run.fail("the disk is full")
    run.set_state("failed", "the disk is full")
    assert json.loads(run.status.read_text())["reason"] == "the disk is full"
