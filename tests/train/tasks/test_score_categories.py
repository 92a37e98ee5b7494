"""Each category's numbers are those that pycocotools gives for that category alone."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdnkernels.train.data.sets import open_annotations
from mdnkernels.train.tasks.detection import DetectionTask
from mdnkernels.train.tasks.score import Score, category_table
from tests.train.drawn_data import DataPaths, draw_data_set, edit_json


def drawn_results(data: DataPaths) -> list[dict[str, Any]]:
    """Return boxes near the truth, some of them of another class, and some anywhere."""
    rng = np.random.default_rng(3)
    root = json.loads(data.annotations.read_text())
    results = []
    for one in root["annotations"]:
        kind = one["category_id"] if rng.random() < 0.8 else int(rng.choice([3, 7, 9]))
        box = (np.array(one["bbox"]) * rng.uniform(0.85, 1.15, 4)).round(2).tolist()
        results.append(
            {"image_id": one["image_id"], "category_id": kind, "bbox": box, "score": round(float(rng.random()), 3)}
        )
    return results


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataPaths:
    """Draw a set with a crowd, and with a category of which there is no object."""
    paths = draw_data_set(tmp_path_factory.mktemp("categories"), count=20)

    def change(root: dict[str, Any]) -> None:
        root["categories"].append({"id": 5, "name": "nothing"})
        root["annotations"][4]["iscrowd"] = 1

    edit_json(paths.annotations, change)
    return paths


@pytest.fixture(scope="module")
def score(data: DataPaths) -> Score:
    annotations = open_annotations(data.annotations, None)
    return DetectionTask(annotations.categories).score(annotations, drawn_results(data))


def by_cocoeval(file: Path, results: list[dict[str, Any]], category: int) -> Any:
    """Return the stats of pycocotools for one category, from the file."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluator.params.catIds = [category]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


def test_each_categorys_numbers_are_those_of_pycocotools_for_it_alone(data: DataPaths, score: Score) -> None:
    results = drawn_results(data)
    assert [(one["id"], one["name"]) for one in score.categories] == [
        (3, "plate"),
        (5, "nothing"),
        (7, "bar"),
        (9, "ring"),
    ]
    for one in score.categories:
        stats = by_cocoeval(data.annotations, results, one["id"])
        for name, place in (("AP", 0), ("AP50", 1), ("AP75", 2), ("AR", 8)):
            assert one[name] == pytest.approx(stats[place], abs=1e-12), (one["name"], name)
    assert {one["AP"] for one in score.categories} != {-1.0}


def test_the_mean_over_categories_with_objects_is_the_ap(data: DataPaths, score: Score) -> None:
    root = json.loads(data.annotations.read_text())
    for one in score.categories:
        there = [a for a in root["annotations"] if a["category_id"] == one["id"] and not a["iscrowd"]]
        assert one["objects"] == len(there)
    nothing = next(one for one in score.categories if one["name"] == "nothing")
    assert [nothing[name] for name in ("AP", "AP50", "AP75", "AR")] == [-1.0] * 4
    mean = np.mean([one["AP"] for one in score.categories if one["objects"]])
    assert mean == pytest.approx(score.metrics["AP"], abs=1e-12)


def test_the_table_is_sorted_and_names_what_it_leaves_out(score: Score) -> None:
    lines = category_table(score.categories).splitlines()
    best = sorted((one for one in score.categories if one["objects"]), key=lambda one: -one["AP"])
    assert [line.split()[0] for line in lines[1:4]] == [one["name"] for one in best]
    assert lines[-1] == "1 categories have no objects here"

    def entry(number: int) -> dict[str, Any]:
        return {"id": number, "name": f"kind {number}", "objects": 1, "AP": number / 100, "AP50": 0, "AP75": 0, "AR": 0}

    many = category_table([entry(number) for number in range(50)]).splitlines()
    assert len(many) == 22
    assert many[1].startswith("kind 49")
    assert many[11] == "... 30 categories between; metrics.json has them all"
    assert many[-1].startswith("kind 0 ")
