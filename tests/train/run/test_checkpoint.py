"""Checkpoints: whole or not there at all, and every kind of broken file is named."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mdnkernels.models.files import write_atomically
from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.data.coco import Category
from mdnkernels.train.data.sampler import ImageList
from mdnkernels.train.errors import CheckpointError
from mdnkernels.train.run.checkpoint import (
    Checkpoint,
    Progress,
    load_checkpoint,
    load_optimizer,
    load_weights,
    save_checkpoint,
)
from tests.processes import Process
from tests.train.drawn_data import DataPaths, tiny_fit

CONFIG = tiny_fit(DataPaths(Path("images"), Path("list.json")), Path("run"))
CATEGORIES = (Category(3, "plate"), Category(9, "ring"))
LIST = ImageList(26, "0123")


def small_model() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def save(path: Path, config: FitConfig = CONFIG) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    save_checkpoint(
        path,
        config=config,
        categories=CATEGORIES,
        progress=Progress(epoch=2, images=24, step=17),
        training_list=LIST,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
    )
    return model, optimizer


def test_checkpoint_brings_everything_back(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    model, optimizer = save(path)
    checkpoint = load_checkpoint(path)
    assert checkpoint.config == CONFIG
    assert checkpoint.categories == CATEGORIES
    assert checkpoint.progress == Progress(epoch=2, images=24, step=17)
    assert checkpoint.training_list == LIST
    other = small_model()
    load_weights(other, checkpoint)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    again = torch.optim.Adam(other.parameters())
    load_optimizer(again, checkpoint)
    for mine, theirs in zip(again.state.values(), optimizer.state.values(), strict=True):
        assert torch.equal(mine["exp_avg_sq"], theirs["exp_avg_sq"])


def to_version_1(content: dict[str, Any]) -> None:
    """Turn a checkpoint into the first version, whose position counts batches of the configured size."""
    content.pop("training_list")
    content["progress"]["batch"] = content["progress"].pop("images") // content["config"]["optimizer"]["batch"]
    content["version"] = 1


def test_position_of_an_older_checkpoint_becomes_a_number_of_images(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save(path)
    broken(path, to_version_1)
    assert torch.load(path)["progress"] == {"epoch": 2, "batch": 6, "step": 17}
    checkpoint = load_checkpoint(path)
    assert checkpoint.progress == Progress(epoch=2, images=24, step=17)
    assert checkpoint.training_list is None


def broken(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(format="other"), "format: this is another kind of file"),
        (lambda c: c.update(version=99), "version: is 99, this code reads 1 and 2"),
        (lambda c: c.pop("model"), "model: is missing"),
        (lambda c: c.update(optimizer=[]), "optimizer: is a list"),
        (lambda c: c["progress"].update(step=-1), r"progress\.step: -1"),
        (lambda c: c["progress"].pop("epoch"), r"progress\.epoch: None"),
        (lambda c: c["progress"].pop("images"), r"progress\.images: None"),
        (lambda c: c.pop("training_list"), "training_list: is missing"),
        (lambda c: c["training_list"].update(images=0), r"training_list\.images: 0"),
        (lambda c: c["training_list"].pop("fingerprint"), r"training_list\.fingerprint: None"),
        (lambda c: c.update(categories=[{"id": 1}]), "categories: each needs an integer id and a name"),
        (
            lambda c: c.update(categories=[{"id": float("inf"), "name": "a"}]),
            "categories: each needs an integer id and a name",
        ),
        (lambda c: c["config"]["model"].update(components="many"), r"config.*config\.model\.components"),
    ],
)
def test_wrong_field_is_named(tmp_path: Path, edit: Any, message: str) -> None:
    path = tmp_path / "last.pt"
    save(path)
    broken(path, edit)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "half", "tensor", "pickle", "flipped", "bit"])
def test_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "last.pt"
    model, _ = save(path)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "tensor":
        torch.save(torch.zeros(3), path)
    elif damage == "pickle":
        torch.save({"format": subprocess.Popen}, path)  # needs code to load, which weights_only refuses
    elif damage == "bit":
        place = content.index(model.state_dict()["0.weight"].numpy().tobytes())
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    else:
        middle = len(content) // 2
        path.write_bytes(
            {
                "empty": b"",
                "garbage": os.urandom(5000),
                "half": content[:middle],
                "flipped": b"\0" * 200 + content[200:],
            }[damage]
        )
    with pytest.raises(CheckpointError, match=r"last\.pt: "):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda model: model.pop("0.weight"), "0.weight is missing"),
        (lambda model: model.update(extra=torch.zeros(1)), "extra is surplus"),
        (lambda model: model.update({"0.bias": torch.zeros(7)}), r"0.bias has the shape \(7,\), not \(4,\)"),
        (lambda model: model.update({"0.bias": 3}), "0.bias is a int, not a tensor"),
    ],
)
def test_weights_of_another_model_are_named(tmp_path: Path, edit: Any, message: str) -> None:
    path = tmp_path / "last.pt"
    save(path)
    broken(path, lambda content: edit(content["model"]))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(small_model(), load_checkpoint(path))
    assert f"{path}: model: " in str(caught.value)


def test_optimizer_of_another_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save(path)
    other = torch.optim.Adam(torch.nn.Linear(2, 2, bias=False).parameters())
    with pytest.raises(CheckpointError, match=r"last\.pt: optimizer\.state\.0\.exp_avg: "):
        load_optimizer(other, load_checkpoint(path))


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save(path)
    before = path.read_bytes()

    def fail(file: Any) -> None:
        file.write(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, fail)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]


def test_new_content_gets_the_name_in_one_step_once_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"old")
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        events.append("synced")
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        assert (source.read_bytes(), target.read_bytes()) == (b"new", b"old")
        events.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert events == ["synced", "renamed", "synced"]  # the file, its name, the folder that holds the name


WRITER = """
import os, torch
from pathlib import Path
from mdnkernels.train.run.checkpoint import Progress, save_checkpoint
from tests.train.run.test_checkpoint import CATEGORIES, CONFIG, LIST

values = {"weight": torch.zeros(300_000)}
for step in range(1, 100_000):
    save_checkpoint(Path(os.environ["CHECKPOINT"]), config=CONFIG, categories=CATEGORIES, progress=Progress(step=step),
                    training_list=LIST, model=values, optimizer={})
    print(step, flush=True)
"""


def test_process_killed_while_it_writes_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    chance = random.Random(0)
    for _ in range(3):
        process = Process(WRITER, CHECKPOINT=str(path))
        while not process.output:
            assert not process.ended, process.errors
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        written = [int(line) for line in process.output.split()]
        checkpoint: Checkpoint = load_checkpoint(path)
        assert checkpoint.progress.step >= written[-1]


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("value", [torch.zeros(1), torch.zeros(4, 3, dtype=torch.float64), 3])
def test_optimizer_state_of_another_shape_is_named(tmp_path: Path, moment: str, value: object) -> None:
    path = tmp_path / "last.pt"
    _, optimizer = save(path)
    content = torch.load(path, weights_only=True)
    content["optimizer"]["state"][0][moment] = value
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"last\.pt: optimizer\.state\.0\.{moment}: is "):
        load_optimizer(optimizer, load_checkpoint(path))
