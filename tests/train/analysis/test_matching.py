"""Results and objects: overlaps counted pixel by pixel, and the strongest result near an object."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mdnkernels.train.analysis.matching import box_overlap, match_centres, match_results


@pytest.mark.parametrize("seed", range(20))
def test_overlap_is_that_of_counted_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = [[*map(int, rng.integers(0, 12, 2)), *map(int, rng.integers(1, 15, 2))] for _ in range(2)]
    masks = np.zeros((2, 30, 30), dtype=bool)
    for mask, (x, y, width, height) in zip(masks, boxes, strict=True):
        mask[y : y + height, x : x + width] = True
    assert box_overlap(*boxes) == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


def result(image: int, x: float, score: float) -> dict[str, Any]:
    return {"image_id": image, "bbox": [x, 0.0, 10.0, 10.0], "score": score}


def test_an_object_has_the_strongest_result_of_its_place() -> None:
    near, nearer, elsewhere, weak = result(1, 3, 0.8), result(1, 0, 0.7), result(1, 20, 0.9), result(2, 0, 0.2)
    truth = [result(1, 0, 0), result(2, 0, 0), result(3, 0, 0)]
    matches = match_results([near, nearer, elsewhere, weak], truth, min_score=0.3)
    assert [match.truth for match in matches] == truth
    assert [match.result for match in matches] == [near, None, None]
    assert match_results([weak], truth, min_score=0.1)[1].result == weak


def test_a_centre_in_the_middle_half_matches_whatever_the_size() -> None:
    def square(x: float, y: float, side: float, score: float, image: int = 1) -> dict[str, Any]:
        return {"image_id": image, "bbox": [x - side / 2, y - side / 2, side, side], "score": score}

    thing = {"image_id": 1, "bbox": [10.0, 20.0, 40.0, 20.0]}  # its middle half: x 20 to 40, y 25 to 35
    inside, corner = square(39.0, 26.0, 200.0, 0.2), square(20.0, 35.0, 2.0, 0.1)
    outside = [square(41.0, 30.0, 20.0, 0.9), square(30.0, 36.0, 20.0, 0.9), square(30.0, 30.0, 20.0, 0.9, image=2)]
    (match,) = match_centres([corner, *outside, inside], [thing])
    assert match.result is inside
    assert match_centres([corner], [thing])[0].result is corner
    assert match_centres(outside, [thing])[0].result is None
