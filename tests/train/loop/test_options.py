"""Options of the training loop: each does what it says and changes nothing else."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import mdnkernels.train.loop.trainer
from mdnkernels.train.config.commands import EvaluateConfig
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.inference.evaluation import evaluate
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.loop.network import restore_network
from tests.train.drawn_data import DataPaths, tiny_fit
from tests.train.float64 import use_float64
from tests.train.loop.test_engine import assert_same, last, losses, resume, state


def weights_after_each_step(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Return a list that a run fills with its weights: at first, and after each step."""
    seen: list[dict[str, Tensor]] = []
    step = mdnkernels.train.loop.trainer.Trainer._train_step

    def noting(self: Any, *arguments: Any) -> Any:
        if not seen:
            seen.append({name: value.clone() for name, value in self.model.state_dict().items()})
        result = step(self, *arguments)
        seen.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return result

    monkeypatch.setattr(mdnkernels.train.loop.trainer.Trainer, "_train_step", noting)
    return seen


def gradient_norms(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that is filled with the gradient's norm in each step that Adam takes from now on."""
    seen: list[float] = []
    step = torch.optim.Adam.step

    def noting(self: torch.optim.Adam, *arguments: Any, **options: Any) -> Any:
        gradients = [parameter.grad for group in self.param_groups for parameter in group["params"]]
        seen.append(nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None]).item())
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", noting)
    return seen


@pytest.mark.parametrize("parts", [3, 9])
def test_step_in_parts_is_the_step_of_the_whole_batch(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """Batch norm is in eval mode, because otherwise it sees the parts one by one."""
    use_float64(monkeypatch.setattr)
    forward = nn.BatchNorm2d.forward
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, values: forward(self.eval(), values))
    runs = []
    for accumulate in (1, parts):
        config = tiny_fit(drawn, tmp_path / f"run{accumulate}", epochs=2, accumulate=accumulate, augment=False)
        runs.append(fit(config))
    whole, split = last(runs[0]), last(runs[1])
    assert split.progress == whole.progress
    for name, value in whole.model.items():
        torch.testing.assert_close(split.model[name], value, rtol=1e-6, atol=1e-6, msg=name)
    for one, other in zip(losses(runs[0]), losses(runs[1]), strict=True):
        assert other == pytest.approx(one)


def test_gradient_is_shrunk_to_the_norm_and_no_further(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = gradient_norms(monkeypatch)
    fit(tiny_fit(drawn, tmp_path / "free", epochs=1))
    free = norms.copy()
    norms.clear()
    fit(tiny_fit(drawn, tmp_path / "clipped", epochs=1, clip_norm=free[0] / 2))
    assert norms[0] == pytest.approx(free[0] / 2, rel=1e-4)
    norms.clear()
    run = fit(tiny_fit(drawn, tmp_path / "wide", epochs=1, clip_norm=10 * max(free)))
    assert norms == free
    assert_same(last(run).model, last(tmp_path / "free").model)


def test_average_follows_the_weights_and_is_what_evaluates_and_predicts(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = weights_after_each_step(monkeypatch)
    val = {"val_images": drawn.images, "val_annotations": drawn.annotations}
    run = fit(tiny_fit(drawn, tmp_path / "run", epochs=2, ema=0.75, **val))
    checkpoint = last(run)
    assert checkpoint.average is not None
    assert len(seen) == 5
    for name, average in checkpoint.average.items():
        expected = seen[0][name]
        for weights in seen[1:]:
            expected = 0.75 * expected + 0.25 * weights[name] if average.is_floating_point() else weights[name]
        torch.testing.assert_close(average, expected)
    model, _ = restore_network(checkpoint)
    assert_same(dict(model.state_dict()), checkpoint.average)
    evaluate(EvaluateConfig(run=run, output=tmp_path / "again", batch=4, workers=0, device="cpu"))
    scores = [
        sorted((one["score"] for one in json.loads((folder / "detections.json").read_text())), reverse=True)[:200]
        for folder in (run / "evaluation", tmp_path / "again")
    ]
    # The weights lie in another order in memory, and sums are rounded otherwise.
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)


def test_three_epochs_and_three_more_are_six_bit_for_bit(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, average, optimizer, schedule and data order agree, with every option that could have a state."""
    order: list[list[int]] = []
    step = mdnkernels.train.loop.trainer.Trainer._train_step

    def noting(self: Any, batch: Any, *arguments: Any) -> Any:
        order.append(batch["image_id"].tolist())
        return step(self, batch, *arguments)

    monkeypatch.setattr(mdnkernels.train.loop.trainer.Trainer, "_train_step", noting)
    options = {"epochs": 6, "drop_epochs": (2, 4), "ema": 0.9, "accumulate": 2, "clip_norm": 5.0}
    whole = fit(tiny_fit(drawn, tmp_path / "whole", **options))
    order_of_whole = order.copy()
    order.clear()
    parts = fit(tiny_fit(drawn, tmp_path / "parts", **options, stop_after=6))
    assert state(parts)["state"] == "interrupted"
    assert last(parts).progress.step == 6  # two an epoch
    resume(parts)
    assert state(parts)["state"] == "finished"
    one, other = last(whole), last(parts)
    for name in ("progress", "model", "average", "optimizer"):
        assert_same(getattr(other, name), getattr(one, name))
    assert losses(parts) == losses(whole)
    assert order == order_of_whole


def test_activation_checkpointing_changes_no_bit(drawn: DataPaths, tmp_path: Path) -> None:
    runs = [
        fit(tiny_fit(drawn, tmp_path / str(on), epochs=2, activation_checkpointing=on, accumulate=2))
        for on in (False, True)
    ]
    assert_same(last(runs[1]).model, last(runs[0]).model)


def test_compiled_network_trains_the_same_and_its_checkpoint_has_the_same_names(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is traced as for the compiler, whose own code takes minutes to make (below)."""
    compiled = functools.partialmethod(nn.Module.compile, backend="eager")
    monkeypatch.setattr(nn.Module, "compile", compiled)
    torch._dynamo.utils.counters.clear()
    compile_and_compare(drawn, tmp_path)


@pytest.mark.slow
def test_compiled_code_trains_the_same(drawn: DataPaths, tmp_path: Path) -> None:
    torch._dynamo.utils.counters.clear()
    compile_and_compare(drawn, tmp_path)


def compile_and_compare(drawn: DataPaths, tmp_path: Path) -> None:
    plain = fit(tiny_fit(drawn, tmp_path / "plain", epochs=1))
    run = fit(tiny_fit(drawn, tmp_path / "compiled", epochs=1, compile=True, ema=0.9))
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert last(run).model.keys() == last(plain).model.keys()
    restore_network(last(run))
    for one, other in zip(losses(plain), losses(run), strict=True):
        assert other == pytest.approx(one, rel=1e-3)


def test_half_precision_without_a_gpu_is_refused_before_a_run_is_made(drawn: DataPaths, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--precision float16: needs a GPU"):
        fit(tiny_fit(drawn, tmp_path / "run", precision="float16"))
    assert not (tmp_path / "run").exists()


def test_bfloat16_stays_near_float32_with_every_option(drawn: DataPaths, tmp_path: Path) -> None:
    options = {"epochs": 1, "ema": 0.9, "accumulate": 2, "clip_norm": 5.0, "activation_checkpointing": True}
    exact = fit(tiny_fit(drawn, tmp_path / "no", **options))
    near = fit(tiny_fit(drawn, tmp_path / "bf16", **options, precision="bfloat16"))
    for one, other in zip(losses(exact), losses(near), strict=True):
        assert other == pytest.approx(one, rel=0.05)
    assert all(value.dtype != torch.bfloat16 for value in last(near).model.values())


def test_average_can_be_begun_and_given_up_between_sessions(drawn: DataPaths, tmp_path: Path) -> None:
    run = fit(tiny_fit(drawn, tmp_path / "run", epochs=3, stop_after=2))
    assert last(run).average is None
    before = last(run)
    resume(run, optimizer=dataclasses.replace(before.config.optimizer, ema=0.9), stop_after=2)
    assert last(run).average is not None
    resume(run, optimizer=before.config.optimizer)
    assert last(run).average is None


def test_tensorboard_has_the_scalars_and_pictures_of_each_evaluation(drawn: DataPaths, tmp_path: Path) -> None:
    val = {"val_images": drawn.images, "val_annotations": drawn.annotations, "val_limit": 2}
    run = fit(tiny_fit(drawn, tmp_path / "run", epochs=2, evaluate_every=1, **val))
    board = EventAccumulator(str(run))
    board.Reload()
    tags = board.Tags()
    expected = {"loss/heatmap", "loss/offset", "loss/mixture", "loss/total", "learning_rate", "images_per_second"}
    expected |= {f"mixture/{name}_{m}" for name in ("share", "chosen", "sigma") for m in range(2)} | {"metrics/AP"}
    expected |= {"mixture/choice_entropy", "mixture_epoch/share_0", "mixture_epoch/sigma_1"}
    assert expected <= set(tags["scalars"])
    assert tags["images"] == ["val/1", "val/2"]
    assert [event.step for event in board.Images("val/1")] == [2, 4]
