"""From a model's boxes to COCO's numbers: the way back to the image, and the edge cases of pycocotools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import Detections, placed
from tests.train.drawn_data import DataPaths, edit_json, tiny_fit
from train.coco import Category, CocoAnnotations, read_annotations
from train.config import EvaluateConfig, InferenceConfig
from train.engine import fit
from train.errors import CheckpointError, ConfigError, DatasetError
from train.evaluation import evaluate
from train.score import BOX_METRICS, score_boxes
from train.tasks import DetectionTask
from train.transforms import window

CATEGORIES = (Category(3, "plate"), Category(9, "ring"))


def perfect(annotations: CocoAnnotations) -> list[dict[str, object]]:
    return [
        {
            "image_id": int(annotations.image_ids[row]),
            "category_id": annotations.categories[label].id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": 0.9,
            "component": 1,
        }
        for row in range(len(annotations))
        for (x1, y1, x2, y2), label in zip(annotations[row].boxes.tolist(), annotations[row].labels, strict=True)
    ]


def found(boxes: list[list[float]], labels: list[int]) -> Detections:
    count = len(boxes)
    return Detections(
        box=torch.tensor(boxes),
        score=torch.linspace(0.9, 0.1, count),
        label=torch.tensor(labels),
        component=torch.arange(count),
        weight=torch.ones(count),
        sigma=torch.full((count, 2), 3.0),
    )


def results(found: Detections, matrix: np.ndarray) -> list[dict[str, Any]]:
    """Of one image of 65 x 50 pixels."""
    batch = placed(Detections(*(values[None] for values in found)), torch.from_numpy(matrix)[None])
    return DetectionTask(CATEGORIES).results(Detections(*(values[0] for values in batch)), (65, 50))


def test_boxes_go_back_to_the_image_and_are_clipped_to_it() -> None:
    matrix = window((50, 40), 0.5, (64, 64))  # the input shows x from 34 to 66, y from 24 to 56
    entries = results(found([[0.0, 0, 20, 10], [60, 0, 70, 8], [1, 1, 1, 1], [0, 0, 9, 9]], [1, 0, 0, -1]), matrix)
    assert [entry["category_id"] for entry in entries] == [9, 3]
    np.testing.assert_allclose(entries[0]["bbox"], [34, 24, 10, 5])
    np.testing.assert_allclose(entries[1]["bbox"], [64, 24, 1, 4])
    assert entries[0]["sigma"] == [1.5, 1.5]
    assert entries[1]["component"] == 1
    json.dumps(entries)


def test_flipped_input_gives_the_same_boxes() -> None:
    matrix = window((50, 40), 0.5, (64, 64), flip=True)
    (entry,) = results(found([[44.0, 0, 64, 10]], [1]), matrix)
    np.testing.assert_allclose(entry["bbox"], [34, 24, 10, 5])
    assert entry["sigma"] == [1.5, 1.5]


def test_truth_scores_one(drawn: DataPaths) -> None:
    annotations = read_annotations(drawn.annotations)
    score = score_boxes(annotations, perfect(annotations))
    assert tuple(score.metrics) == BOX_METRICS
    assert score.metrics["AP"] == pytest.approx(1)
    assert score.metrics["APlarge"] == -1  # there are none
    assert len(score.table.splitlines()) == 12


def test_no_detections_score_zero(drawn: DataPaths) -> None:
    assert score_boxes(read_annotations(drawn.annotations), []).metrics["AP"] == 0


def test_no_annotations_have_nothing_to_score(drawn_copy: DataPaths) -> None:
    truth = read_annotations(drawn_copy.annotations)
    edit_json(drawn_copy.annotations, lambda root: root.update(annotations=[]))
    empty = read_annotations(drawn_copy.annotations)
    for detections in (perfect(truth), []):
        assert score_boxes(empty, detections).metrics["AP"] == -1


def test_list_without_areas_ids_and_crowd_flags_is_scored(drawn_copy: DataPaths) -> None:
    edit_json(
        drawn_copy.annotations,
        lambda root: [entry.pop(name) for entry in root["annotations"] for name in ("area", "iscrowd", "id")],
    )
    annotations = read_annotations(drawn_copy.annotations)
    assert score_boxes(annotations, perfect(annotations)).metrics["AP"] == pytest.approx(1)


def test_detections_in_a_crowd_are_not_wrong(drawn_copy: DataPaths) -> None:
    whole = read_annotations(drawn_copy.annotations)
    edit_json(drawn_copy.annotations, lambda root: root["annotations"][0].update(iscrowd=1))
    assert score_boxes(read_annotations(drawn_copy.annotations), perfect(whole)).metrics["AP"] == pytest.approx(1)


@pytest.fixture(scope="module")
def run(drawn: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluation") / "run"
    return fit(tiny_fit(drawn, path, epochs=1, val_images=drawn.images, val_annotations=drawn.annotations))


@pytest.fixture(scope="module")
def two_sizes(run: Path) -> Path:
    """A checkpoint whose component 0 says about 3 x 3 cells everywhere and component 1 about 9 x 9."""
    content = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    (name,) = [name for name in content["model"] if name.endswith("loc.output.bias")]
    content["model"][name] += torch.tensor([3.0, 3, 9, 9])
    path = run / "two-sizes.pt"
    torch.save(content, path)
    return path


def config(run: Path | None = None, **options: object) -> EvaluateConfig:
    return EvaluateConfig(run=run, workers=0, device="cpu", **options)  # type: ignore[arg-type]


def test_run_is_scored_as_at_the_end_of_training(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((run / "evaluation" / "metrics.json").read_text())
    detections = json.loads((run / "evaluation" / "detections.json").read_text())
    assert {"image_id", "category_id", "bbox", "score", "component", "sigma"} == detections[0].keys()
    assert {entry["category_id"] for entry in detections} <= {3, 7, 9}
    assert {entry["component"] for entry in detections} <= {0, 1}
    # Another batch size may round differently, as it takes another convolution kernel.
    metrics = evaluate(config(run, batch=4))
    assert before.pop("images_per_second") > 0
    assert metrics.pop("images_per_second") > 0
    assert {**metrics, "skipped_images": 0} == pytest.approx(before)
    assert "Average Precision" in capsys.readouterr().out


def test_broken_image_in_the_val_set_has_no_detections_and_is_counted(
    run: Path, drawn_copy: DataPaths, tmp_path: Path, warned: list[str]
) -> None:
    broken = drawn_copy.images / "002.jpg"
    broken.write_bytes(broken.read_bytes()[:500])
    out = tmp_path / "out"
    evaluate(config(run, images=drawn_copy.images, annotations=drawn_copy.annotations, output=out))
    assert json.loads((out / "metrics.json").read_text())["skipped_images"] == 1
    assert 2 not in {entry["image_id"] for entry in json.loads((out / "detections.json").read_text())}
    assert any("002.jpg" in message for message in warned)


def test_sizes_of_one_component_alone(run: Path, two_sizes: Path, tmp_path: Path) -> None:
    medians = []
    for component in (0, 1):
        inference = InferenceConfig(component=component)
        evaluate(config(checkpoint=two_sizes, inference=inference, output=tmp_path))
        detections = json.loads((tmp_path / "detections.json").read_text())
        assert {entry["component"] for entry in detections} == {component}
        medians.append(np.median([entry["bbox"][2] for entry in detections]))
    assert medians[1] > 1.5 * medians[0]
    with pytest.raises(ConfigError, match="--component: 2 is not there; the model has 2"):
        evaluate(config(run, inference=InferenceConfig(component=2)))


def test_what_cannot_be_evaluated_is_named(run: Path, drawn_copy: DataPaths, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a run directory or --checkpoint"):
        evaluate(config())
    with pytest.raises(ConfigError, match="no such run directory"):
        evaluate(config(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="--images and --annotations: both"):
        evaluate(config(run, images=drawn_copy.images))
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        evaluate(config(checkpoint=tmp_path / "absent.pt"))
    edit_json(drawn_copy.annotations, lambda root: root["categories"][0].update(name="wheel"))
    with pytest.raises(DatasetError, match=r"categories: id 9 \(wheel\) is unknown to the model"):
        evaluate(config(run, images=drawn_copy.images, annotations=drawn_copy.annotations))
