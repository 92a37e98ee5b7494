"""What `evaluate` says of each component: its share, and COCO's numbers of it alone, as a run of its own gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mdnkernels.train.config.commands import EvaluateConfig
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.inference.components import component_shares, component_table, describe_components
from mdnkernels.train.inference.evaluation import evaluate
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.tasks.detection import DetectionTask
from mdnkernels.train.tasks.score import Score
from tests.train.drawn_data import DataPaths, tiny_fit


@pytest.fixture(scope="module")
def checkpoint(drawn: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a network whose components 0 and 1 predict about 3 x 3 and 9 x 9 cells, with scores up to 0.3 and more."""
    run = fit(tiny_fit(drawn, tmp_path_factory.mktemp("components") / "run", epochs=1))
    content = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    for name, values in content["model"].items():
        if name.endswith("loc.output.bias"):
            values += torch.tensor([3.0, 3, 9, 9])
        if name.endswith("heatmap.output.bias"):
            values += 1.5
        if name.endswith("logits.output.weight"):
            values *= 100  # so that each component is chosen somewhere
    path = run / "two-sizes.pt"
    torch.save(content, path)
    return path


def evaluated(checkpoint: Path, data: DataPaths, output: Path, **inference: Any) -> dict[str, Any]:
    config = InferenceConfig(**inference)
    given = {"images": data.images, "annotations": data.annotations, "output": output, "batch": 3}
    return evaluate(EvaluateConfig(checkpoint=checkpoint, inference=config, workers=0, device="cpu", **given))


@pytest.fixture(scope="module")
def found_again(checkpoint: Path, drawn: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> DataPaths:
    """Write annotations that are the best boxes of component 1 alone, which it then finds again."""
    folder = tmp_path_factory.mktemp("again")
    evaluated(checkpoint, drawn, folder, component=1)
    content = json.loads(drawn.annotations.read_text())
    best: dict[int, list[dict[str, Any]]] = {}
    for one in json.loads((folder / "detections.json").read_text()):
        best.setdefault(one["image_id"], []).append(one)
    chosen = [one for results in best.values() for one in sorted(results, key=lambda one: -one["score"])[:3]]
    content["annotations"] = [
        {
            "id": number,
            "image_id": one["image_id"],
            "category_id": one["category_id"],
            "bbox": one["bbox"],
            "area": one["bbox"][2] * one["bbox"][3],
            "iscrowd": 0,
        }
        for number, one in enumerate(chosen, start=1)
    ]
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return DataPaths(drawn.images, path)


@pytest.mark.parametrize("inference", [{}, {"flip": True, "flip_stronger": True}, {"scales": (1.0, 2.0)}], ids=str)
def test_numbers_of_each_component_are_those_of_an_evaluation_of_it_alone(
    checkpoint: Path, found_again: DataPaths, tmp_path: Path, inference: dict[str, Any]
) -> None:
    together = evaluated(checkpoint, found_again, tmp_path / "together", **inference)
    chosen = [
        one["component"]
        for one in json.loads((tmp_path / "together" / "detections.json").read_text())
        if one["score"] >= 0.3
    ]
    assert set(chosen) == {0, 1}
    assert json.loads((tmp_path / "together" / "metrics.json").read_text())["components"] == together["components"]
    for component, described in enumerate(together["components"]):
        assert described.pop("share") == pytest.approx(sum(one == component for one in chosen) / len(chosen))
        alone = evaluated(checkpoint, found_again, tmp_path / str(component), component=component, **inference)
        assert "components" not in alone
        assert described.keys() == set(DetectionTask.metrics)
        assert described == pytest.approx({name: alone[name] for name in described})
    small, large = (one["AP"] for one in together["components"])
    assert large > small + 0.1


def test_the_table_is_printed_and_can_be_left_out(
    checkpoint: Path, drawn: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(checkpoint, drawn, tmp_path)
    assert "component    share       AP     AP50" in capsys.readouterr().out
    given = {"images": drawn.images, "annotations": drawn.annotations, "output": tmp_path}
    config = EvaluateConfig(checkpoint=checkpoint, each_component=False, workers=0, device="cpu", **given)  # type: ignore[arg-type]
    assert [set(one) for one in evaluate(config)["components"]] == [{"share"}, {"share"}]
    assert "component    share\n" in capsys.readouterr().out


def test_the_base_has_no_components(drawn: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = fit(tiny_fit(drawn, tmp_path / "run", epochs=1, components=0, stop_after=1))
    metrics = evaluated(base / "checkpoints" / "last.pt", drawn, tmp_path)
    assert "components" not in metrics
    assert "component " not in capsys.readouterr().out


def test_weak_results_do_not_count_in_a_share() -> None:
    results = [{"score": score, "component": m} for score, m in ((0.9, 0), (0.3, 2), (0.5, 2), (0.4, 2), (0.29, 1))]
    assert component_shares(results, 4) == [0.25, 0, 0.75, 0]
    assert component_shares(results[-1:], 2) == [None, None]


def test_table_has_the_numbers_of_all_and_of_each() -> None:
    results = [{"score": 0.9, "component": 0}, {"score": 0.9, "component": 1}, {"score": 0.9, "component": 1}]
    alone = [Score({"AP": 0.125, "AR": 0.5}, ""), Score({"AP": 0.25, "AR": -1.0}, "")]
    described = describe_components(results, 2, alone)
    lines = component_table(described, {"AP": 0.375, "AR": 0.625, "images_per_second": 7}).splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["component", "share", "AP", "AR"],
        ["all", "0.375", "0.625"],
        ["0", "33.3", "%", "0.125", "0.500"],
        ["1", "66.7", "%", "0.250", "-1.000"],
    ]
    assert [set(one) for one in describe_components(results, 2)] == [{"share"}, {"share"}]
