"""Coloured shapes: a category is a kind of size and a colour, and nothing else is hard about them."""

import colorsys
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from mdnkernels.train.synthetic.coloured import (
    CATEGORIES,
    COLOURED,
    ColouredScene,
    ColouredSceneConfig,
    render_coloured_scene,
)
from mdnkernels.train.synthetic.detection import SizeKind, rare_sizes

RED, GREEN, BLUE = 2, 5, 9


@pytest.fixture(scope="module")
def scenes() -> list[ColouredScene]:
    return [render_coloured_scene(np.random.default_rng([7, i])) for i in range(240)]


def test_a_seed_s_picture_is_the_one_it_has_always_been() -> None:
    """Numbers that were measured on the set of a seed hold as long as the seed's set does."""
    scene = render_coloured_scene(np.random.default_rng([0, 0, 3]), 64)
    assert scene.boxes[0].tolist() == [18.25, 10.25, 60.25, 49.25]
    assert scene.boxes[-1].tolist() == [1.5, 4.0, 21.5, 21.25]
    assert scene.category_ids.tolist() == [BLUE, GREEN, GREEN, GREEN, GREEN]
    assert scene.image.mean((0, 1)) == pytest.approx([109.282, 149.275, 141.165], abs=0.01)


def test_each_category_is_of_its_share_and_size(scenes: list[ColouredScene]) -> None:
    """4, 10 and 20 cells of 4 pixels for 7, 86 and 7 % of the objects, in pictures of 128 pixels."""
    boxes = np.concatenate([scene.boxes for scene in scenes])
    ids = np.concatenate([scene.category_ids for scene in scenes])
    longer = (boxes[:, 2:] - boxes[:, :2]).max(1)
    for category, share, pixels in ((RED, 0.07, 16), (GREEN, 0.86, 40), (BLUE, 0.07, 80)):
        assert np.mean(ids == category) == pytest.approx(share, abs=0.025)
        assert np.median(longer[ids == category]) == pytest.approx(pixels, rel=0.05)
    # Within a kind, sizes vary by a twentieth; a few are hidden in part, or cut.
    assert np.log(longer[ids == GREEN] / 40).std() == pytest.approx(0.05, abs=0.02)


def test_an_object_shows_the_colour_of_its_category(scenes: list[ColouredScene]) -> None:
    for scene in scenes[:60]:
        for category, coverage in zip(scene.category_ids.tolist(), scene.coverage, strict=True):
            whole = coverage == 1
            assert whole.sum() >= 50  # pixels that show it alone, of the smallest too
            red, green, blue = (scene.image[whole].mean(0) / 255).tolist()
            hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
            assert abs((hue - {RED: 0, GREEN: 1 / 3, BLUE: 2 / 3}[category] + 0.5) % 1 - 0.5) <= 0.045
            assert saturation > 0.5


def test_what_is_no_object_is_grey(scenes: list[ColouredScene]) -> None:
    for scene in scenes[:20]:
        free = scene.coverage.sum(0) == 0
        levels = scene.image[free].astype(np.float64) / 255
        assert np.ptp(levels, axis=1).max() <= 0.05 + 2 / 255
        assert np.ptp(levels.mean(0)) < 0.01


def test_objects_hide_next_to_nothing_of_one_another(scenes: list[ColouredScene]) -> None:
    for scene in scenes:
        assert scene.coverage.sum(0).max(initial=0) <= 1 + 1e-6
        assert len(scene.boxes) <= 8
        for box, coverage, area in zip(scene.boxes, scene.coverage, scene.areas, strict=True):
            rows, columns = np.flatnonzero(coverage.any(1)), np.flatnonzero(coverage.any(0))
            gap = (box - [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) * [1, 1, -1, -1]
            assert gap.min() >= 0
            assert gap.max() < 1
            assert area == pytest.approx(coverage.sum(), rel=1e-5)


def test_of_one_kind_alone_all_objects_are_of_it() -> None:
    kinds = tuple(SizeKind(share, size) for share, size in ((0.0, 0.1), (1.0, 0.3), (0.0, 0.6)))
    scene = ColouredSceneConfig(kinds=kinds, min_objects=3, max_objects=3, deviation=0.0, inside=1.0, min_visible=1.0)
    drawn = render_coloured_scene(np.random.default_rng(1), 128, scene)
    assert set(drawn.category_ids.tolist()) == {GREEN}
    longer = (drawn.boxes[:, 2:] - drawn.boxes[:, :2]).max(1)
    assert longer == pytest.approx(0.3 * 128, abs=0.75)


def test_pycocotools_loads_it(tmp_path: Path) -> None:
    paths = COLOURED.write(tmp_path, train=12, val=1, image_size=96, seed=3)
    coco = COCO(str(paths.train_annotations))
    assert sorted(coco.getCatIds()) == sorted(CATEGORIES) == [RED, GREEN, BLUE]
    assert len(coco.getImgIds()) == 12
    for annotation in coco.anns.values():
        x, y, width, height = annotation["bbox"]
        assert min(x, y) >= 0
        assert max(x + width, y + height) <= 96
        assert 0 < annotation["area"] <= width * height
    assert json.loads(paths.train_annotations.read_text())["info"]["scene"]["kinds"][0][0] == 0.07


@pytest.mark.parametrize(
    "field",
    [
        {"min_objects": 9},
        {"kinds": rare_sizes(1.0)[:2]},
        {"kinds": (SizeKind(0.5, 0.1), SizeKind(0.5, 0.1))},
        {"kinds": tuple(SizeKind(1 / 3, size) for size in (0.1, 0.2, 1.1))},
        {"max_aspect": 0.5},
        {"min_visible": 0.0},
        {"inside": 1.1},
        {"deviation": -0.1},
        {"jpeg_quality": 0},
    ],
)
def test_bad_scene_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        ColouredSceneConfig(**field)


def test_a_picture_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size is 16"):
        render_coloured_scene(np.random.default_rng(0), 16)
