"""From drawn data to boxes in Python alone, as a notebook would: nothing exits, and mistakes are named."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from typing import Any

import pytest

import mdnkernels.train
from mdnkernels.train import (
    AugmentConfig,
    DataConfig,
    EvaluateConfig,
    FitConfig,
    ModelConfig,
    OptimizerConfig,
    Predictor,
    UserError,
    evaluate,
    fit,
    read_log,
)
from mdnkernels.train.tasks.detection import DetectionTask
from tests.train.drawn_data import DataPaths


def config(data: DataPaths, run: Path, **options: Any) -> FitConfig:
    """Return what a user would write, with texts for paths and a list for a tuple."""
    images, annotations = str(data.images), str(data.annotations)
    return FitConfig(
        run=str(run),  # type: ignore[arg-type]
        data=DataConfig(
            train_images=images,  # type: ignore[arg-type]
            train_annotations=annotations,  # type: ignore[arg-type]
            val_images=images,  # type: ignore[arg-type]
            val_annotations=annotations,  # type: ignore[arg-type]
            input_size=64,
            workers=0,
        ),
        augment=AugmentConfig(crop_scales=[0.9, 1]),  # type: ignore[arg-type]
        model=ModelConfig(arch="hourglass_tiny", components=2),
        optimizer=OptimizerConfig(epochs=2, batch=4, lr=0.001),
        device="cpu",
        log_every=1,
        **options,
    )


def test_fit_evaluate_and_predict(drawn: DataPaths, tmp_path: Path) -> None:
    run = fit(config(drawn, tmp_path / "run", stop_after=3, evaluate_every=1, keep="best"))
    assert run == tmp_path / "run"
    fit(config(drawn, tmp_path / "run", resume=str(run)))
    records = read_log(str(run / "log.jsonl"))
    losses = [record["loss/total"] for record in records if record["kind"] == "step"]
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))

    said: list[str] = []
    metrics = evaluate(
        EvaluateConfig(run=str(run), checkpoint="last", workers=0, device="cpu"),  # type: ignore[arg-type]
        say=said.append,
    )
    assert set(DetectionTask.metrics) | {"categories", "components", "images_per_second"} == metrics.keys()
    assert {one["name"] for one in metrics["categories"]} == {"ring", "plate", "bar"}
    assert any("Average Precision" in text for text in said)
    written = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert written == {**metrics, "skipped_images": 0}

    found = Predictor.from_run(run, threshold=0.0, device="cpu")(drawn.images / "001.jpg")
    assert found.boxes.shape == (len(found), 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "cuda:7"}, "--device: cuda:7 is not there"),
        ({"seed": "1"}, "expected int, got '1' @ FitConfig.seed"),
        ({"log_every": 0}, "--log-every: must be at least 1, not 0"),
        ({"keep": "best"}, "--keep best: needs --evaluate-every"),
        ({"resume": "absent"}, "--resume: absent: is not a run directory"),
    ],
)
def test_a_mistake_is_an_exception_that_names_it(
    change: dict[str, Any], message: str, drawn: DataPaths, tmp_path: Path
) -> None:
    made = config(drawn, tmp_path / "run")
    with pytest.raises(UserError, match=message):
        fit(FitConfig(**{**vars(made), **change}))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="there is no such run directory"):
        evaluate(EvaluateConfig(run=tmp_path / "absent"))


def test_every_public_name_is_there_and_typed() -> None:
    """Names are imported when they are asked for; type checkers read the imports beside that table."""
    source = ast.parse(Path(mdnkernels.train.__file__).read_text())
    (typed,) = [node for node in source.body if isinstance(node, ast.If)]
    names = {alias.name for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == set(mdnkernels.train.__all__) == set(mdnkernels.train._PLACE_OF)
    assert names <= set(dir(mdnkernels.train))
    for name in names:
        assert getattr(mdnkernels.train, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'predictor_of'"):
        mdnkernels.train.predictor_of  # noqa: B018
