"""Resuming inside an epoch: every image once, whatever the batch; another order of images is refused there."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import mdnkernels.train.loop.trainer
from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.config.serialisation import read_config
from mdnkernels.train.data.sets import TrainingSet
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.run.log import RunLog, read_log
from tests.train.drawn_data import DataPaths, edit_json, tiny_fit
from tests.train.loop.test_engine import last, resume, state
from tests.train.run.test_checkpoint import to_version_1


@pytest.fixture
def times_read(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, int]]:
    """Count how often each (epoch, index) is asked for."""
    counts: Counter[tuple[int, int]] = Counter()
    read = TrainingSet.__getitem__

    def counting(self: TrainingSet, key: tuple[int, int]) -> Any:
        counts[key] += 1
        return read(self, key)

    monkeypatch.setattr(TrainingSet, "__getitem__", counting)
    return counts


def stored(run: Path) -> FitConfig:
    return read_config(FitConfig, run / "config.json")


def with_batch(run: Path, batch: int) -> dict[str, Any]:
    return {"optimizer": dataclasses.replace(stored(run).optimizer, batch=batch)}


def with_data(run: Path, **changes: Any) -> dict[str, Any]:
    return {"data": dataclasses.replace(stored(run).data, **changes)}


@pytest.mark.parametrize(
    ("first", "steps", "second", "steps_in_all"), [(2, 1, 8, 1 + 1 + 1), (4, 1, 2, 1 + 2 + 4), (2, 2, 3, 2 + 2 + 2)]
)
def test_run_goes_on_with_another_batch_at_the_image_where_it_stopped(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times_read: Counter[tuple[int, int]],
    first: int, steps: int, second: int, steps_in_all: int,
) -> None:  # fmt: skip
    announced: list[int] = []

    class NotingLog(RunLog):
        def __init__(self, log: Path | None, *, step: int, steps: int) -> None:
            announced.append(steps)
            super().__init__(log, step=step, steps=steps)

    monkeypatch.setattr(mdnkernels.train.loop.trainer, "RunLog", NotingLog)
    run = fit(tiny_fit(drawn, tmp_path / "run", batch=first, stop_after=steps))
    assert last(run).progress.images == first * steps
    resume(run, **with_batch(run, second))
    assert {key: count for key, count in times_read.items() if key[0] == 0} == {(0, index): 1 for index in range(8)}
    assert set(times_read.values()) == {1}
    assert sum(epoch == 1 for epoch, _ in times_read) == 8 - 8 % second
    assert last(run).progress.step == steps_in_all
    assert announced == [2 * (8 // first), steps_in_all]
    records = [record for record in read_log(run / "log.jsonl") if record["kind"] == "step"]
    assert [record["step"] for record in records] == list(range(1, steps_in_all + 1))
    assert [record["learning_rate"] for record in records] == [
        pytest.approx(2.5e-4 if record["epoch"] == 1 else 2.5e-5) for record in records
    ]


def test_smaller_last_batch_is_reached_also_after_a_second_stop(
    drawn: DataPaths, tmp_path: Path, times_read: Counter[tuple[int, int]]
) -> None:
    run = fit(tiny_fit(drawn, tmp_path / "run", batch=2, epochs=1, stop_after=1))
    resume(run, stop_after=1, **with_batch(run, 4))
    assert last(run).progress.images == 6
    resume(run)
    assert times_read == {(0, index): 1 for index in range(8)}


def drop_an_image(root: dict[str, Any]) -> None:
    root["images"].pop(2)
    root["annotations"] = [one for one in root["annotations"] if one["image_id"] != 3]


def add_an_image(root: dict[str, Any]) -> None:
    root["images"].append({"id": 99, "file_name": "001.jpg"})


def reorder(root: dict[str, Any]) -> None:
    root["images"].reverse()


def replace_a_file(root: dict[str, Any]) -> None:
    root["images"][0]["file_name"] = "copy.jpg"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_an_image, r"annotations\.json: 7 images, before 8: the run stopped inside epoch 1"),
        (add_an_image, r"annotations\.json: 9 images, before 8"),
        (reorder, r"annotations\.json: other images, or the same in another order"),
        (replace_a_file, r"annotations\.json: other images, or the same in another order"),
    ],
)
def test_changed_list_is_refused_inside_an_epoch_and_noted_between_two(
    drawn_copy: DataPaths, tmp_path: Path, warned: list[str], change: Any, message: str
) -> None:
    run = fit(tiny_fit(drawn_copy, tmp_path / "run", batch=2, stop_after=1))
    before = (run / "config.json").read_bytes(), drawn_copy.annotations.read_bytes()
    (drawn_copy.images / "copy.jpg").write_bytes((drawn_copy.images / "001.jpg").read_bytes())
    edit_json(drawn_copy.annotations, change)
    with pytest.raises(ConfigError, match=message + r".*after 2 of its 8 images.*--stop-after 3"):
        resume(run)
    assert (run / "config.json").read_bytes() == before[0]
    assert last(run).progress.images == 2

    # What the message says to do.
    drawn_copy.annotations.write_bytes(before[1])
    resume(run, stop_after=3)
    edit_json(drawn_copy.annotations, change)
    assert not warned
    resume(run, stop_after=1)
    assert (last(run).progress.epoch, last(run).progress.images) == (1, 2)
    assert [message.partition(":")[0] for message in warned] == ["goes on with other training images"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_limit": 6}, "--train-limit: is 6, was None: 6 images, before 8"),
        ({"train_share": 0.5}, r"--train-share: is 0\.5, was 1\.0: 4 images, before 8"),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_option_that_chooses_other_images_is_named(
    drawn: DataPaths, tmp_path: Path, change: dict[str, Any], message: str, version: int
) -> None:
    run = fit(tiny_fit(drawn, tmp_path / "run", batch=2, stop_after=1))
    if version == 1:
        as_version_1(run)
        message = message.partition(": ")[0]
    with pytest.raises(ConfigError, match=message):
        resume(run, **with_data(run, **change))


def test_list_that_is_only_moved_or_annotated_anew_is_the_same(drawn_copy: DataPaths, tmp_path: Path) -> None:
    run = fit(tiny_fit(drawn_copy, tmp_path / "run", batch=2, epochs=1, stop_after=1))
    edit_json(drawn_copy.annotations, lambda root: root["annotations"].pop())
    moved = drawn_copy.annotations.rename(tmp_path / "moved.json")
    resume(run, **with_data(run, train_annotations=moved))
    assert state(run)["state"] == "finished"


def test_other_seed_is_refused_inside_an_epoch_alone(drawn: DataPaths, tmp_path: Path) -> None:
    run = fit(tiny_fit(drawn, tmp_path / "run", batch=2, stop_after=1))
    with pytest.raises(ConfigError, match="--seed: is 5, was 0: the run stopped inside epoch 1, after 2 of its 8"):
        resume(run, seed=5)
    resume(run, stop_after=3)
    resume(run, seed=5)
    assert state(run)["state"] == "finished"


def test_changed_list_does_not_open_again_an_epoch_that_has_no_batch_left(
    drawn_copy: DataPaths, tmp_path: Path, times_read: Counter[tuple[int, int]]
) -> None:
    run = fit(tiny_fit(drawn_copy, tmp_path / "run", batch=2, epochs=1, stop_after=4))
    edit_json(drawn_copy.annotations, add_an_image)
    resume(run, **with_batch(run, 1))
    assert sum(times_read.values()) == 8
    assert state(run)["state"] == "finished"


def as_version_1(run: Path) -> None:
    path = run / "checkpoints" / "last.pt"
    content = torch.load(path)
    to_version_1(content)
    torch.save(content, path)


def test_checkpoint_of_an_older_version_goes_on_at_its_image(
    drawn: DataPaths, tmp_path: Path, times_read: Counter[tuple[int, int]], warned: list[str]
) -> None:
    run = fit(tiny_fit(drawn, tmp_path / "run", batch=2, epochs=1, stop_after=1))
    as_version_1(run)
    resume(run, **with_batch(run, 3))
    assert times_read == {(0, index): 1 for index in range(8)}
    assert ["is of an older version" in message for message in warned] == [True]
