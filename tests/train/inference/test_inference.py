"""Evaluation and prediction in half precision, compiled, and without batch norms."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mdnkernels.train.inference.evaluation
import mdnkernels.train.inference.predictor
from mdnkernels.train.config.commands import EvaluateConfig, PredictConfig
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.inference.evaluation import evaluate
from mdnkernels.train.inference.prediction import predict
from mdnkernels.train.inference.preparation import autocast_context, prepare_for_inference
from mdnkernels.train.loop.engine import fit
from tests.train.drawn_data import DataPaths, tiny_fit


@pytest.fixture(scope="module")
def run(drawn: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inference") / "run"
    return fit(tiny_fit(drawn, path, epochs=2, val_images=drawn.images, val_annotations=drawn.annotations))


def evaluated(run: Path, output: Path, inference: InferenceConfig) -> list[dict[str, Any]]:
    evaluate(EvaluateConfig(run=run, output=output, inference=inference, batch=3, workers=0, device="cpu"))
    return json.loads((output / "detections.json").read_text())


def predicted(run: Path, output: Path, inference: InferenceConfig) -> list[dict[str, Any]]:
    images = json.loads((run / "config.json").read_text())["data"]["val_images"]
    config = PredictConfig((Path(images),), run, output=output, inference=inference, threshold=0, pictures=False)
    return [one for entry in predict(config)["images"] for one in entry["detections"]]


def best(entries: list[dict[str, Any]]) -> list[float]:
    return sorted((one["score"] for one in entries), reverse=True)[:100]


BOTH_COMMANDS = pytest.mark.parametrize("find", [evaluated, predicted])
Find = Callable[[Path, Path, InferenceConfig], list[dict[str, Any]]]


@BOTH_COMMANDS
def test_batch_norms_are_folded_and_the_results_are_the_same(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, find: Find
) -> None:
    calls: list[int] = []
    forward = nn.BatchNorm2d.forward

    def counting(self: nn.BatchNorm2d, values: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return forward(self, values)

    monkeypatch.setattr(nn.BatchNorm2d, "forward", counting)
    folded = find(run, tmp_path / "folded", InferenceConfig())
    assert not calls
    for module in (mdnkernels.train.inference.evaluation, mdnkernels.train.inference.predictor):
        monkeypatch.setattr(module, "prepare_for_inference", lambda model, config, device: model)
    plain = find(run, tmp_path / "plain", InferenceConfig())
    assert calls
    assert best(folded) == pytest.approx(best(plain), abs=1e-5)


@BOTH_COMMANDS
def test_bfloat16_reaches_the_convolutions_and_stays_near(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, find: Find
) -> None:
    exact = find(run, tmp_path / "exact", InferenceConfig())
    dtypes: set[torch.dtype] = set()
    forward = nn.Conv2d.forward

    def noting(self: nn.Conv2d, values: torch.Tensor) -> torch.Tensor:
        result = forward(self, values)
        dtypes.add(result.dtype)
        return result

    monkeypatch.setattr(nn.Conv2d, "forward", noting)
    near = find(run, tmp_path / "near", InferenceConfig(precision="bfloat16"))
    # Of the heads the last layer alone stays in float32.
    assert dtypes == {torch.bfloat16, torch.float32}
    assert best(near) == pytest.approx(best(exact), abs=0.05)
    assert best(near) != best(exact)


def test_compiled_network_finds_the_same(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is traced as for the compiler, whose own code takes a minute to make. The last batch is smaller."""
    exact = evaluated(run, tmp_path / "exact", InferenceConfig())
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = evaluated(run, tmp_path / "compiled", InferenceConfig(compile=True))
    counters = torch._dynamo.utils.counters
    assert counters["frames"]["ok"] > 0
    assert not counters["graph_break"]
    assert best(compiled) == pytest.approx(best(exact), abs=1e-5)


@pytest.mark.slow
def test_compiled_code_finds_the_same(run: Path, tmp_path: Path) -> None:
    torch._dynamo.reset()
    exact = evaluated(run, tmp_path / "exact", InferenceConfig())
    assert best(evaluated(run, tmp_path / "code", InferenceConfig(compile=True))) == pytest.approx(
        best(exact), abs=1e-4
    )


def test_float16_on_a_cpu_is_refused_and_on_a_gpu_is_taken() -> None:
    config = InferenceConfig(precision="float16")
    with pytest.raises(ConfigError, match="--precision float16: needs a GPU"):
        autocast_context(config, torch.device("cpu"))
    if torch.cuda.is_available():
        with autocast_context(config, torch.device("cuda")):
            assert torch.get_autocast_dtype("cuda") == torch.float16


def test_weights_are_made_ready_in_channels_last() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)).eval()
    ready = prepare_for_inference(model, InferenceConfig(), torch.device("cpu"))
    assert ready[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert isinstance(ready[1], nn.Identity)
