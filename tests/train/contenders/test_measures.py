"""What is measured of boxes, from truth and results that are made by hand."""

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mdnkernels.train.contenders.jobs import Job, Trained
from mdnkernels.train.contenders.measures import measure_boxes
from mdnkernels.train.contenders.worlds import World, kinds_world, sizes_world

RED, GREEN, BLUE = 2, 5, 9
# Sides in pixels, of 4, 10 and 20 cells; of each object the category in the world where it is the kind.
THINGS = ((16.0, RED), (16.0, RED), (40.0, GREEN), (80.0, BLUE))


def measured(
    world: World, sides: tuple[float, ...], things: tuple[tuple[float, int], ...] = THINGS
) -> dict[str, float]:
    """Return what is measured where each picture has one object, found at its centre with the side that is given."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, ((side, category), found) in enumerate(zip(things, sides, strict=True), start=1):
        where = {"image_id": number, "category_id": category}
        annotations.append({**where, "id": number, "iscrowd": 0, "area": side**2, "bbox": [0.0, 0.0, side, side]})
        corner = (side - found) / 2
        results.append({**where, "score": 0.9 - 0.1 * number, "bbox": [corner, corner, found, found]})
    truth = {
        "images": [{"id": number + 1, "width": 128, "height": 128} for number in range(len(things))],
        "annotations": annotations,
        "categories": [{"id": category, "name": str(category)} for category in (RED, GREEN, BLUE)],
    }
    subject = SimpleNamespace(metrics={"AP": 0.5, "AP75": 0.4}, truth=truth, results=results, components=0)
    return measure_boxes(cast(Trained, SimpleNamespace(job=Job(world, 0, 0), subject=subject)))


def test_ap_of_a_kind_is_that_of_its_category() -> None:
    """A box of 0.8 of the side overlaps by 0.64, above 3 of COCO's 10 thresholds; one of 0.9 by 0.81, above 7."""
    found = measured(kinds_world(1.0), (16.0, 16.0, 40.0 * 0.8, 80.0 * 0.9))
    assert (found["AP"], found["AP75"]) == (50.0, 40.0)
    assert [found[f"AP {kind}"] for kind in ("small", "middle", "large")] == pytest.approx([100, 30, 70])
    assert [found[f"overlap {kind}"] for kind in ("small", "middle", "large")] == pytest.approx([100, 64, 81])
    assert found["overlap rare"] == pytest.approx((100 + 81) / 2)
    assert found["AP kinds"] == pytest.approx(200 / 3)


def test_an_object_is_of_its_category_s_kind_whatever_its_size() -> None:
    """Objects of a kind vary; here a red one is as large as a green one, and half of red is missed."""
    things = ((16.0, RED), (40.0, RED), (40.0, GREEN), (80.0, BLUE))
    found = measured(kinds_world(1.0), (16.0, 40.0 * 0.7, 40.0, 80.0), things)
    assert found["overlap small"] == pytest.approx((100 + 49) / 2)
    # Of two red objects the strongest result is right and the other, of overlap 0.49, is wrong at all thresholds:
    # precision is 1 up to a recall of one half, at 51 of COCO's 101 recalls.
    assert found["AP small"] == pytest.approx(100 * 51 / 101)
    assert found["AP middle"] == pytest.approx(100)


def test_where_categories_say_nothing_kinds_are_ranges_of_size() -> None:
    things = tuple((side, GREEN) for side, _ in THINGS)
    found = measured(sizes_world(1.0), (16.0, 16.0, 40.0 * 0.8, 80.0), things)
    assert [found[f"overlap {kind}"] for kind in ("small", "middle", "large")] == pytest.approx([100, 64, 100])
    assert [found[f"AP {kind}"] for kind in ("small", "middle", "large")] == pytest.approx([100, 30, 100])


@pytest.mark.parametrize("world", [sizes_world(0.0), kinds_world(0.0)], ids=["sizes", "kinds"])
def test_where_all_sizes_are_alike_there_are_no_kinds(world: World) -> None:
    found = measured(world, (16.0, 16.0, 40.0, 80.0))
    assert found["AP"] == 50.0
    assert all(math.isnan(found[name]) for name in ("AP small", "AP kinds", "overlap large", "overlap rare"))
