"""AP by ranges of size, against cases that can be counted and against COCO's own ranges."""

import math
from typing import Any

import numpy as np
import pytest

from mdnkernels.train.analysis.size_ranges import ap_of_sizes

CATEGORIES = [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}]


def box(image: int, side: float, *, category: int = 3, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": [1.0, 2.0, side, side], "area": 1.0, **more}


def test_each_range_counts_its_own_objects() -> None:
    sides = [10.0, 40.0, 80.0, 40.0]
    truth = {"images": [{"id": i} for i in range(4)], "categories": CATEGORIES}
    annotations = [{**box(i, side), "iscrowd": 0} for i, side in enumerate(sides)]
    # Small: found. Middle: one of two. Large: none.
    results = [box(0, 10.0, score=0.9), box(1, 40.0, score=0.8)]
    small, middle, large = ap_of_sizes({**truth, "annotations": annotations}, results, [20.0, 60.0])
    assert small == pytest.approx(1.0)
    # Recall reaches one half at precision 1: 51 of COCO's 101 recall levels.
    assert middle == pytest.approx(51 / 101)
    assert large == 0.0


def test_a_result_of_another_size_is_no_mistake_of_the_range() -> None:
    truth = {
        "images": [{"id": 0}, {"id": 1}],
        "categories": CATEGORIES,
        "annotations": [{**box(0, 10.0), "iscrowd": 0}],
    }
    results = [box(1, 70.0, score=0.99), box(0, 10.0, score=0.5)]
    small, large = ap_of_sizes(truth, results, [30.0])
    assert small == pytest.approx(1.0)
    assert math.isnan(large)


def test_no_result_scores_zero() -> None:
    truth = {"images": [{"id": 0}], "categories": CATEGORIES, "annotations": [{**box(0, 10.0), "iscrowd": 0}]}
    assert ap_of_sizes(truth, [], []) == (0.0,)


def test_ranges_of_coco_give_coco_s_numbers() -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(3)
    truth: dict[str, Any] = {"images": [{"id": i} for i in range(12)], "categories": CATEGORIES, "annotations": []}
    results = []
    for i in range(60):
        side, category = float(rng.choice([20.0, 50.0, 120.0])), int(rng.choice([3, 7]))
        x, y = rng.uniform(0, 400, 2).tolist()
        entry = {"image_id": i % 12, "category_id": category, "bbox": [x, y, side, side], "iscrowd": 0}
        truth["annotations"].append({**entry, "area": side * side, "id": i + 1})
        moved = [value + side * rng.normal(0, 0.08) for value in (x, y)]
        results.append({**entry, "bbox": [*moved, side, side], "score": float(rng.random())})
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    evaluator = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    assert ap_of_sizes(truth, results, [32.0, 96.0]) == pytest.approx(evaluator.stats[3:6])
    assert ap_of_sizes(truth, results, []) == pytest.approx(evaluator.stats[:1])
