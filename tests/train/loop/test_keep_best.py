"""The checkpoint of the best evaluation stays beside the last, also of runs that were stopped and killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mdnkernels.train.loop.trainer
from mdnkernels.train import Predictor
from mdnkernels.train.config.commands import EvaluateConfig
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.inference.evaluation import evaluate
from mdnkernels.train.inference.record import read_record
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.loop.trainer import Trainer
from mdnkernels.train.run.checkpoint import Checkpoint, load_checkpoint
from mdnkernels.train.run.log import read_log
from mdnkernels.train.tasks.detection import DetectionTask
from mdnkernels.train.tasks.score import Score
from tests.train.drawn_data import DataPaths, tiny_fit
from tests.train.loop.test_engine import assert_same, last, resume

# By epoch; the third is as good as the second.
APS = {1: 0.2, 2: 0.5, 3: 0.5, 4: 0.3}
STEPS_OF_EPOCH = 2


def best(run: Path) -> Checkpoint:
    return load_checkpoint(run / "checkpoints" / "best.pt")


def config(data: DataPaths, run: Path, **options: Any) -> Any:
    val = {"val_images": data.images, "val_annotations": data.annotations, "val_limit": 2}
    options = {"arch": "hourglass_tiny", "epochs": 4, "keep": "best", "evaluate_every": 1, **val, **options}
    return tiny_fit(data, run, **options)


@pytest.fixture
def aps(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Return the APs that evaluations will have, by epoch, which a test may change."""
    values, now, evaluate_epoch = dict(APS), {}, Trainer._evaluate

    def at_epoch(self: Any, *arguments: Any) -> Any:
        now["epoch"] = self.progress.epoch
        return evaluate_epoch(self, *arguments)

    monkeypatch.setattr(Trainer, "_evaluate", at_epoch)
    monkeypatch.setattr(DetectionTask, "score", lambda *_: Score({"AP": values[now["epoch"]]}, "a table"))
    return values


def assert_is_of_epoch(checkpoint: Checkpoint, epoch: int, ap: float) -> None:
    assert (checkpoint.progress.epoch, checkpoint.progress.step) == (epoch, STEPS_OF_EPOCH * epoch)
    assert checkpoint.ap == ap


def test_the_highest_ap_is_kept_and_of_two_alike_the_earlier(
    aps: dict[int, float], drawn: DataPaths, tmp_path: Path
) -> None:
    run = fit(config(drawn, tmp_path / "run"))
    assert_is_of_epoch(best(run), 2, 0.5)
    assert last(run).progress.epoch == 4
    assert last(run).ap is None
    shorter = fit(config(drawn, tmp_path / "shorter", stop_after=2 * STEPS_OF_EPOCH, keep="last"))
    assert_same(best(run).model, last(shorter).model)
    assert not (shorter / "checkpoints" / "best.pt").exists()


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_run_that_was_stopped_and_goes_on_has_the_same_best(
    stop_after: int, aps: dict[int, float], drawn: DataPaths, tmp_path: Path
) -> None:
    whole = fit(config(drawn, tmp_path / "whole"))
    run = fit(config(drawn, tmp_path / "run", stop_after=stop_after))
    while last(run).progress.epoch < 4:
        resume(run, stop_after=stop_after)
    resume(run)
    assert_is_of_epoch(best(run), 2, 0.5)
    assert_same(best(run).model, best(whole).model)


def break_once(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, when: Callable[[], bool]) -> None:
    """Let a function raise, as a killed process ends, the first time that it is called when something holds."""
    original, done = getattr(place, name), []

    def breaking(*arguments: Any, **options: Any) -> Any:
        if not done and when():
            done.append(True)
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(place, name, breaking)


@pytest.mark.parametrize("name", ["predict_set", "write_evaluation"])
def test_an_evaluation_that_was_killed_is_made_up_for(
    name: str, aps: dict[int, float], drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """predict_set comes before the best checkpoint is written, write_evaluation between it and the log's record."""
    run = tmp_path / "run"
    place = mdnkernels.train.loop.trainer
    break_once(monkeypatch, place, name, lambda: last(run).progress.epoch == 2)
    with pytest.raises(KeyboardInterrupt):
        fit(config(drawn, run))
    assert last(run).progress.epoch == 2
    assert best(run).progress.epoch == (1 if name == "predict_set" else 2)
    resume(run)
    assert_is_of_epoch(best(run), 2, 0.5)
    evaluated = [record["epoch"] for record in read_log(run / "log.jsonl") if record["kind"] == "evaluation"]
    assert evaluated == [1, 2, 3, 4]


def test_a_failed_write_keeps_the_best_that_was_there(
    aps: dict[int, float], drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mdnkernels.models.files

    run, original = tmp_path / "run", mdnkernels.models.files.os.replace

    def replace(source: Path, target: Path) -> None:
        if target.name == "best.pt" and target.exists():
            raise KeyboardInterrupt
        original(source, target)

    with monkeypatch.context() as broken:
        broken.setattr(mdnkernels.models.files.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            fit(config(drawn, run))
    assert_is_of_epoch(best(run), 1, 0.2)
    resume(run)
    assert_is_of_epoch(best(run), 2, 0.5)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.pt", "last.pt"]


def test_another_val_set_begins_anew(
    aps: dict[int, float], drawn: DataPaths, tmp_path: Path, warned: list[str]
) -> None:
    run = fit(config(drawn, tmp_path / "run", stop_after=2 * STEPS_OF_EPOCH + 1))
    assert best(run).ap == 0.5
    aps[3] = 0.1
    stored = last(run).config
    resume(run, data=type(stored.data)(**{**vars(stored.data), "val_limit": 1}))
    assert_is_of_epoch(best(run), 4, 0.3)
    assert any("of another val set" in message for message in warned)


def test_the_best_is_evaluated_and_predicts(drawn: DataPaths, tmp_path: Path, aps: dict[int, float]) -> None:
    run = fit(config(drawn, tmp_path / "run"))
    folder = tmp_path / "evaluation"
    options: dict[str, Any] = {"run": run, "device": "cpu", "workers": 0}
    # The scripted score has the epoch of the last evaluation; what counts is which network was looked at.
    evaluate(EvaluateConfig(checkpoint=Path("best"), output=folder, **options), say=lambda _: None)
    record = read_record(folder)
    assert record is not None
    assert record.step == 2 * STEPS_OF_EPOCH
    assert record.checkpoint == (run / "checkpoints" / "best.pt").resolve()
    evaluate(EvaluateConfig(checkpoint=Path("last"), output=folder, **options), say=lambda _: None)
    record = read_record(folder)
    assert record is not None
    assert (record.step, record.checkpoint) == (4 * STEPS_OF_EPOCH, None)
    image = drawn.images / "001.jpg"
    found = [
        predictor(image).to_coco()
        for predictor in (
            Predictor.from_run(run, checkpoint="best", threshold=0, device="cpu"),
            Predictor.from_checkpoint(run / "checkpoints" / "best.pt", threshold=0, device="cpu"),
            Predictor.from_run(run, threshold=0, device="cpu"),
        )
    ]
    assert found[0] == found[1] != found[2]


def test_mistakes_are_named(drawn: DataPaths, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="--keep best: needs --evaluate-every"):
        fit(config(drawn, run, evaluate_every=0))
    with pytest.raises(ConfigError, match="--keep best: needs --val-images"):
        fit(config(drawn, run, val_images=None, val_annotations=None))
    run.mkdir()
    with pytest.raises(ConfigError, match=r"--checkpoint best: .*run has none"):
        Predictor.from_run(run, checkpoint="best")
