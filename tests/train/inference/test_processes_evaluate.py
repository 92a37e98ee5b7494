"""Several processes evaluate as one does: every image once, the same files to the last bit, and they end together."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import mdnkernels.train.inference.evaluation
from mdnkernels.train.__main__ import main
from mdnkernels.train.config.commands import EvaluateConfig
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.data.sets import EvaluationSet, open_annotations
from mdnkernels.train.errors import DatasetError, EvaluationError
from mdnkernels.train.inference.evaluation import Findings, evaluate, merge_findings, predict_set, views_of
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.loop.network import restore_network
from mdnkernels.train.run.checkpoint import load_checkpoint
from tests.processes import module
from tests.train.drawn_data import DataPaths, draw_data_set, edit_json, tiny_fit
from tests.train.loop.test_processes import ACCELERATE, TORCHRUN, launch, two_ranks

WAYS: dict[str, list[str]] = {
    "plain": [],
    "original": ["--resolution", "original", "--flip"],
    "scales": ["--scales", "0.5", "1", "2", "--batch", "2"],
    "one-batch": ["--limit", "3"],  # which leaves the second process without any
    "unscored": ["--split", "test-dev"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataPaths:
    """Write eight images, one of which cannot be read. Their ids are in no order."""
    data = draw_data_set(tmp_path_factory.mktemp("odd") / "data")

    def renumber(root: dict[str, Any]) -> None:
        for entry in root["images"]:
            entry["id"] = 7 * entry["id"] % 9 + 100
        for entry in root["annotations"]:
            entry["image_id"] = 7 * entry["image_id"] % 9 + 100

    edit_json(data.annotations, renumber)
    (data.images / "006.jpg").write_bytes(b"")
    return data


@pytest.fixture(scope="module")
def run(drawn: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tiny_fit(drawn, tmp_path_factory.mktemp("run") / "run", epochs=1))


def arguments(run: Path, data: DataPaths, output: Path, *more: str) -> list[str]:
    paths = ["--images", str(data.images), "--annotations", str(data.annotations), "--output", str(output)]
    return ["evaluate", str(run), *paths, "--batch", "3", "--workers", "0", "--device", "cpu", *more]


def torchrun(commands: list[list[str]], fault: str = "none") -> subprocess.CompletedProcess[str]:
    return launch(*TORCHRUN, "-m", "--", "tests.train.evaluating_ranks", fault, json.dumps(commands))


def test_two_processes_write_the_files_that_one_writes(run: Path, data: DataPaths, tmp_path: Path) -> None:
    ways = WAYS.items()
    commands = json.dumps([arguments(run, data, tmp_path / f"two-{name}", *more) for name, more in ways])
    ranks = two_ranks(module("tests.train.evaluating_ranks", "none", commands))
    for done in ranks:
        assert done.returncode == 0, done.stderr
    output, errors = ("".join(texts) for texts in zip(*((done.stdout, done.stderr) for done in ranks), strict=True))
    assert output.count("images/s in the network and its decoding, on 2 processes (cpu)") == len(WAYS)
    assert output.count("Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all") == len(WAYS) - 1
    assert errors.count("skipped image") == len(WAYS) - 1  # by the process that should have read it
    for name, more in ways:
        assert main(arguments(run, data, tmp_path / name, *more)) == 0
        one, two = tmp_path / name, tmp_path / f"two-{name}"
        assert len(json.loads((one / "detections.json").read_text())) > 100
        assert (two / "detections.json").read_bytes() == (one / "detections.json").read_bytes(), name
        metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (one, two)]
        assert min(numbers.pop("images_per_second") for numbers in metrics) > 0
        assert metrics[0] == metrics[1]
    listed = [entry["id"] for entry in json.loads(data.annotations.read_text())["images"]]
    found = [entry["image_id"] for entry in json.loads((tmp_path / "two-plain" / "detections.json").read_text())]
    assert list(dict.fromkeys(found)) == [identity for row, identity in enumerate(listed, start=1) if row != 6]
    # Each image's detections lie together, none twice.
    assert [identity for identity, _ in itertools.groupby(found)] == list(dict.fromkeys(found))
    assert max(found.count(identity) for identity in listed) <= 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"), [("raise", "MemoryError: no memory is left in process 1"), ("kill", "SIGKILL")]
)
def test_process_that_fails_ends_all_and_nothing_is_written(
    run: Path, data: DataPaths, tmp_path: Path, fault: str, message: str
) -> None:
    done = torchrun([arguments(run, data, tmp_path / "out")], fault)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Average" not in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_accelerate_launch_starts_them_too(run: Path, data: DataPaths, tmp_path: Path) -> None:
    done = launch(*ACCELERATE, "-m", "train", *arguments(run, data, tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert "on 2 processes (cpu)" in done.stdout
    assert main(arguments(run, data, tmp_path / "one")) == 0
    one, two = ((tmp_path / name / "detections.json").read_bytes() for name in ("one", "two"))
    assert one == two


class WithAnother:
    """The processes of a test: this one, and another that has found `other`."""

    count, number = 2, 0

    def __init__(self, other: Findings) -> None:
        self.other = other

    def gather_numbers(self, value: int) -> list[int]:
        return [value, len(self.other.skipped)]

    def gather_to_main(self, value: Findings) -> list[Findings]:
        return [value, self.other]


@pytest.fixture
def dataset(data: DataPaths) -> EvaluationSet:
    return EvaluationSet(open_annotations(data.annotations), data.images, views_of(InferenceConfig(), 64, 32))


def test_speed_is_that_of_all_processes(dataset: EvaluationSet) -> None:
    others: Any = WithAnother(Findings([], ["a"], 4, 2.5))
    assert merge_findings(Findings([], ["b"], 6, 2.0), dataset, others) == Findings([], ["a", "b"], 10, 2.5)


def test_images_that_cannot_be_read_are_counted_over_all_processes(dataset: EvaluationSet) -> None:
    mine, theirs = (Findings([], [f"{name}{i}" for i in range(count)], 0, 0.0) for name, count in (("a", 5), ("b", 6)))
    others: Any = WithAnother(theirs)
    with pytest.raises(DatasetError, match="11 of 8 cannot be read, too many to skip"):
        merge_findings(mine, dataset, others)


def test_death_of_another_process_is_named(
    run: Path, data: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(*_: Any) -> Any:
        raise RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:525] Connection closed by peer")

    monkeypatch.setattr(mdnkernels.train.inference.evaluation, "merge_findings", closed)
    with pytest.raises(EvaluationError, match=r"another process of this run has died \(.*closed by peer\); the eval"):
        evaluate(EvaluateConfig(run, images=data.images, annotations=data.annotations, workers=0, device="cpu"))
    assert main(arguments(run, data, tmp_path / "out")) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: another process of this run has died")


def test_batches_are_dealt_out_as_one_process_takes_them(
    run: Path, dataset: EvaluationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = restore_network(load_checkpoint(run / "checkpoints" / "last.pt"))
    given: list[list[int]] = []
    loader = mdnkernels.train.inference.evaluation.evaluation_loader

    def noting(dataset: EvaluationSet, batches: list[list[int]], *rest: Any, **options: Any) -> Any:
        given.extend(batches)
        return loader(dataset, batches, *rest, **options)

    monkeypatch.setattr(mdnkernels.train.inference.evaluation, "evaluation_loader", noting)
    options: Any = {"device": torch.device("cpu"), "batch": 3, "workers": 0, "processes": 3}
    for process in range(3):
        predict_set(model, dataset, task, InferenceConfig(), process=process, **options)
    assert given == [[0, 1, 2], [3, 4, 5], [6, 7]]
