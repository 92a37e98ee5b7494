"""Training: it learns, resumes bit for bit, stops in order, and says what went wrong."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mdnkernels.train.loop.trainer
from mdnkernels.models import Detector
from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.config.options import OptimizerConfig
from mdnkernels.train.config.serialisation import read_config
from mdnkernels.train.errors import CheckpointError, ConfigError, DatasetError, TrainingError
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.loop.trainer import learning_rate
from mdnkernels.train.run.checkpoint import Checkpoint, load_checkpoint
from mdnkernels.train.run.log import read_log
from tests.train.drawn_data import DataPaths, draw_data_set, edit_json, tiny_fit


def last(run: Path) -> Checkpoint:
    return load_checkpoint(run / "checkpoints" / "last.pt")


def state(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())


def resume(run: Path, **changes: Any) -> Path:
    stored = read_config(FitConfig, run / "config.json")
    return fit(dataclasses.replace(stored, resume=run, **changes))


def assert_same(one: Any, other: Any) -> None:
    """Compare to the last bit, through dicts and lists."""
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_same(first, second)
    else:
        assert one == other


def losses(run: Path) -> list[tuple[int, float]]:
    return [
        (record["step"], record["loss/total"]) for record in read_log(run / "log.jsonl") if record["kind"] == "step"
    ]


@pytest.fixture(scope="module")
def uninterrupted(drawn: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train three epochs of two steps, with augmentation."""
    return fit(tiny_fit(drawn, tmp_path_factory.mktemp("engine") / "run", epochs=3))


def test_run_directory_holds_what_the_run_was(uninterrupted: Path) -> None:
    assert state(uninterrupted) == {"state": "finished", "reason": None}
    checkpoint = last(uninterrupted)
    assert (checkpoint.progress.epoch, checkpoint.progress.images, checkpoint.progress.step) == (3, 0, 6)
    assert checkpoint.config == read_config(FitConfig, uninterrupted / "config.json")
    records = read_log(uninterrupted / "log.jsonl")
    steps = [record for record in records if record["kind"] == "step"]
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert [record["epoch"] for record in steps] == [1, 1, 2, 2, 3, 3]
    assert [record["learning_rate"] for record in steps] == pytest.approx([2.5e-4] * 2 + [2.5e-5] * 4)
    expected = {"loss/heatmap", "loss/offset", "loss/mixture", "loss/total", "images_per_second", "data_wait"}
    assert expected | {"mixture/choice_entropy", "mixture/share_1", "mixture/sigma_1"} <= steps[0].keys()
    assert len(list(uninterrupted.glob("events.out.*"))) == 1


@pytest.mark.parametrize("stop", [1, 2, 3], ids=["mid-epoch", "epoch's end", "mid-epoch after a drop"])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    uninterrupted: Path, drawn: DataPaths, tmp_path: Path, stop: int
) -> None:
    run = fit(tiny_fit(drawn, tmp_path / "run", epochs=3, stop_after=stop))
    assert state(run) == {"state": "interrupted", "reason": f"--stop-after {stop}"}
    assert last(run).progress.step == stop
    resume(run)
    assert state(run)["state"] == "finished"
    whole, parts = last(uninterrupted), last(run)
    assert_same(parts.model, whole.model)
    assert_same(parts.optimizer, whole.optimizer)
    assert parts.progress == whole.progress
    assert losses(run) == losses(uninterrupted)


def test_workers_change_nothing(uninterrupted: Path, drawn: DataPaths, tmp_path: Path) -> None:
    run = fit(tiny_fit(drawn, tmp_path / "run", epochs=3, workers=2))
    assert_same(last(run).model, last(uninterrupted).model)


def test_resume_may_change_the_schedule_and_records_it(drawn: DataPaths, tmp_path: Path) -> None:
    run = fit(tiny_fit(drawn, tmp_path / "run", epochs=1))
    stored = read_config(FitConfig, run / "config.json")
    resume(run, optimizer=dataclasses.replace(stored.optimizer, epochs=2))
    assert last(run).progress.epoch == 2
    assert read_config(FitConfig, run / "config.json").optimizer.epochs == 2


@pytest.mark.parametrize("components", [0, 1])
def test_loss_falls_for_the_base_and_for_one_component(drawn: DataPaths, tmp_path: Path, components: int) -> None:
    config = tiny_fit(drawn, tmp_path / "run", components=components, augment=False, epochs=12, lr=2e-3, drop_epochs=())
    totals = [total for _, total in losses(fit(config))]
    assert sum(totals[-4:]) < 0.7 * sum(totals[:4])


def test_evaluation_happens_when_due_and_at_the_end(drawn: DataPaths, tmp_path: Path) -> None:
    val = {"val_images": drawn.images, "val_annotations": drawn.annotations, "val_limit": 3}
    run = fit(tiny_fit(drawn, tmp_path / "run", epochs=3, evaluate_every=2, **val))
    records = [record for record in read_log(run / "log.jsonl") if record["kind"] == "evaluation"]
    assert [record["epoch"] for record in records] == [2, 3]
    assert "metrics/AP50" in records[0]
    detections = json.loads((run / "evaluation" / "detections.json").read_text())
    assert {entry["image_id"] for entry in detections} <= {1, 2, 3}


def test_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Detector.forward
    calls: list[int] = []

    def poisoned(self: Detector, images: Tensor, index: Tensor | None = None) -> list[dict[str, Tensor]]:
        calls.append(1)
        outputs = forward(self, images, index)
        return [{**output, "offset": output["offset"] * (math.nan if len(calls) == 4 else 1)} for output in outputs]

    monkeypatch.setattr(Detector, "forward", poisoned)
    with pytest.raises(TrainingError, match=r"step 4: the loss is not finite \(.*offset nan.*\); image ids: \d"):
        fit(tiny_fit(drawn, tmp_path / "run", epochs=3))
    run = tmp_path / "run"
    assert state(run)["state"] == "failed"
    assert "image ids" in state(run)["reason"]
    checkpoint = last(run)
    assert checkpoint.progress.step == 2
    assert all(value.isfinite().all() for value in checkpoint.model.values())


def test_weights_that_are_not_finite_are_not_saved(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = mdnkernels.train.loop.trainer.Trainer._train_step

    def breaking(self: Any, batch: Any, count: int, parts: int) -> Any:
        result = step(self, batch, count, parts)
        if count == 4:  # the last step before a checkpoint: no further loss shows it
            next(self.model.parameters()).data.fill_(math.inf)
        return result

    monkeypatch.setattr(mdnkernels.train.loop.trainer.Trainer, "_train_step", breaking)
    with pytest.raises(TrainingError, match="step 4: weights are not finite"):
        fit(tiny_fit(drawn, tmp_path / "run", epochs=3))
    assert last(tmp_path / "run").progress.step == 2


def test_images_without_boxes_and_broken_images_are_trained_around(
    drawn_copy: DataPaths, tmp_path: Path, warned: list[str]
) -> None:
    edit_json(drawn_copy.annotations, lambda root: root.update(annotations=root["annotations"][:2]))
    (drawn_copy.images / "004.jpg").write_bytes(b"")
    cut = drawn_copy.images / "005.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    (drawn_copy.images / "006.jpg").unlink()
    run = fit(tiny_fit(drawn_copy, tmp_path / "run", batch=1, workers=1))
    assert state(run)["state"] == "finished"
    # Five readable images in each of two epochs; a batch of a broken image alone is no step.
    assert last(run).progress.step == 10
    epochs = [record for record in read_log(run / "log.jsonl") if record["kind"] == "epoch"]
    assert [record["skipped_images"] for record in epochs] == [3, 3]
    assert len(warned) == 3


def test_too_many_broken_images_stop_the_run(tmp_path: Path) -> None:
    data = draw_data_set(tmp_path / "data", count=12)
    for path in sorted(data.images.iterdir())[1:]:
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="11 of 12 cannot be read"):
        fit(tiny_fit(data, tmp_path / "run", batch=2))
    assert state(tmp_path / "run")["state"] == "failed"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"arch": "resnet"}, ConfigError, "--arch.*resnet.*hourglass104"),
        ({"input_size": 70}, ConfigError, "--input-size: 70 is no multiple of 32"),
        ({"epochs": 0}, ConfigError, "--epochs"),
        ({"val_images": Path("nowhere")}, ConfigError, "--val-images and --val-annotations: both"),
        ({"train_images": Path("nowhere")}, DatasetError, "nowhere: there is no such folder"),
        ({"train_annotations": Path("nowhere.json")}, DatasetError, r"nowhere\.json: there is no such annotation file"),
    ],
)
def test_mistake_is_named_before_a_run_is_made(
    drawn: DataPaths, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit(tiny_fit(drawn, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_run_is_not_written_over_and_a_broken_checkpoint_is_named(
    uninterrupted: Path, drawn: DataPaths, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="is there already"):
        fit(tiny_fit(drawn, uninterrupted))
    run = fit(tiny_fit(drawn, tmp_path / "run", epochs=1))
    checkpoint = run / "checkpoints" / "last.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"last\.pt: is not a readable checkpoint"):
        resume(run)


def test_other_categories_than_the_checkpoints_are_refused(drawn_copy: DataPaths, tmp_path: Path) -> None:
    run = fit(tiny_fit(drawn_copy, tmp_path / "run", epochs=2, stop_after=1))
    edit_json(drawn_copy.annotations, lambda root: root["categories"][0].update(name="wheel"))
    with pytest.raises(CheckpointError, match="categories: differ from those of"):
        resume(run)


def test_bfloat16_run_and_float32_run_in_one_process(drawn: DataPaths, tmp_path: Path) -> None:
    for precision in ("bfloat16", "float32"):
        run = fit(tiny_fit(drawn, tmp_path / precision, epochs=1, precision=precision))
        assert state(run)["state"] == "finished"


def test_learning_rate_drops_by_default_ten_epochs_before_the_end_or_for_the_last_fifth() -> None:
    drops = {1: (), 2: (1,), 4: (3,), 5: (4,), 10: (8,), 49: (40,), 50: (40,), 100: (90,), 150: (140,)}
    assert {epochs: OptimizerConfig(epochs=epochs).drops for epochs in drops} == drops
    config = OptimizerConfig(lr=1.0, epochs=10)
    assert [learning_rate(config, epoch) for epoch in range(10)] == pytest.approx([1.0] * 8 + [0.1] * 2)


def test_a_new_run_that_ends_before_its_learning_rate_drops_is_refused_and_an_old_one_goes_on(
    drawn: DataPaths, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"--drop-epochs: 2, 40: not before the end of --epochs 2, .* earlier ones"):
        fit(tiny_fit(drawn, tmp_path / "run", epochs=2, drop_epochs=(1, 2, 40)))
    run = fit(tiny_fit(drawn, tmp_path / "run", epochs=2, stop_after=1))
    stored = read_config(FitConfig, run / "config.json")
    resume(run, optimizer=dataclasses.replace(stored.optimizer, drop_epochs=(40,)), stop_after=1)
    assert read_config(FitConfig, run / "config.json").optimizer.drops == (40,)


def test_learning_rate_drops_after_each_of_its_epochs() -> None:
    config = OptimizerConfig(lr=1.0, drop_epochs=(2, 4))
    assert [learning_rate(config, epoch) for epoch in range(6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
