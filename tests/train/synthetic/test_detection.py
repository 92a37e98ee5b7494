import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mdnkernels.train.synthetic import detection
from mdnkernels.train.synthetic.detection import (
    CATEGORIES,
    SHAPES,
    DetectionScene,
    DetectionSceneConfig,
    SizeKind,
    rare_sizes,
    render_detection_scene,
)
from mdnkernels.train.synthetic.scenery import FINE
from mdnkernels.train.synthetic.sets import SyntheticPaths


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> SyntheticPaths:
    return SHAPES.write(tmp_path_factory.mktemp("synthetic"), train=60, val=8, seed=3)


@pytest.fixture(scope="module")
def scenes() -> list[DetectionScene]:
    return [render_detection_scene(np.random.default_rng([11, i])) for i in range(80)]


def test_a_seed_s_picture_is_the_one_it_has_always_been() -> None:
    """Numbers that were measured on the set of a seed hold as long as the seed's set does."""
    scene = render_detection_scene(np.random.default_rng([0, 0, 2]), 64)
    assert scene.boxes.tolist() == [[51.5, 27.0, 63.75, 38.0], [19.5, 9.75, 44.0, 25.5]]
    assert scene.category_ids.tolist() == [8, 3]
    assert scene.image.mean((0, 1)) == pytest.approx([111.359, 88.448, 118.064], abs=0.01)


def test_train_and_val_share_no_picture_and_no_id(written: SyntheticPaths) -> None:
    train, val = (json.loads(path.read_text()) for path in (written.train_annotations, written.val_annotations))
    assert not {image["id"] for image in train["images"]} & {image["id"] for image in val["images"]}
    pictures = [path.read_bytes() for folder in (written.train_images, written.val_images) for path in folder.iterdir()]
    assert len(set(pictures)) == len(pictures) == 68


def test_pycocotools_loads_it(written: SyntheticPaths) -> None:
    coco = COCO(str(written.train_annotations))
    assert sorted(coco.getCatIds()) == sorted(CATEGORIES) == [3, 7, 8, 20]
    assert len(coco.getImgIds()) == 60
    assert {annotation["category_id"] for annotation in coco.anns.values()} == set(CATEGORIES)
    assert min(coco.anns) == 1
    for image_id in coco.getImgIds():
        image = coco.imgs[image_id]
        with Image.open(written.train_images / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (160, 160)
            assert picture.mode == "RGB"
        for annotation in coco.loadAnns(coco.getAnnIds(image_id)):
            x, y, width, height = annotation["bbox"]
            assert annotation["iscrowd"] == 0
            assert min(x, y) >= 0
            assert max(x + width, y + height) <= 160
            assert 0 < annotation["area"] <= width * height


def test_sizes_spread_evenly_over_a_factor_of_twelve(written: SyntheticPaths) -> None:
    annotations = json.loads(written.train_annotations.read_text())["annotations"]
    longer = np.array([max(annotation["bbox"][2:]) for annotation in annotations])
    assert longer.max() / longer.min() >= 12
    # Equal ratios of size hold comparable numbers of objects: no third of the log range is rare.
    thirds = np.histogram(longer, np.geomspace(10, 131, 4))[0]
    assert thirds.min() > 0.2 * len(longer)


def test_width_and_height_are_not_one_number(scenes: list[DetectionScene]) -> None:
    sides = np.concatenate([scene.boxes[:, 2:] - scene.boxes[:, :2] for scene in scenes])
    ratio = np.log(sides[:, 0] / sides[:, 1])
    assert ratio.std() > 0.25
    assert abs(np.corrcoef(ratio, np.log(sides.prod(1)))[0, 1]) < 0.25


def test_boxes_are_tight_around_what_is_visible(scenes: list[DetectionScene]) -> None:
    for scene in scenes:
        for box, coverage, area in zip(scene.boxes, scene.coverage, scene.areas, strict=True):
            rows, columns = np.flatnonzero(coverage.any(1)), np.flatnonzero(coverage.any(0))
            seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            # The box is exact to a quarter of a pixel; whole pixels that it touches reach at most one further.
            gap = (box - seen) * [1, 1, -1, -1]
            assert gap.min() >= 0
            assert gap.max() < 1
            assert area == pytest.approx(coverage.sum(), rel=1e-5)


def test_no_object_is_hidden_and_many_are_partly(scenes: list[DetectionScene]) -> None:
    visible = np.concatenate([scene.visible for scene in scenes])
    assert visible.min() >= DetectionSceneConfig().min_visible >= 0.35
    assert 0.15 < np.mean(visible < 0.95) < 0.8
    for scene in scenes:
        assert scene.coverage.sum(0).max(initial=0) <= 1 + 1e-6
        assert 0 <= len(scene.boxes) <= 8


def test_some_objects_are_cut_by_the_border_and_their_boxes_end_there(scenes: list[DetectionScene]) -> None:
    boxes = np.concatenate([scene.boxes for scene in scenes])
    assert boxes.min() == 0
    assert boxes.max() == 160
    assert np.mean((boxes == 0) | (boxes == 160)) > 0.02


def test_objects_are_painted_where_they_are_annotated_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects are white on black, so the picture is the sum of what each object covers."""
    black = np.zeros((3, 128, 128), dtype=np.float32)
    monkeypatch.setattr(detection, "background", lambda rng, size: black)
    monkeypatch.setattr(detection, "surface", lambda rng, rim, under: np.ones((3, *rim.shape), dtype=np.float32))
    for seed in range(20):
        scene = render_detection_scene(np.random.default_rng(seed), 128)
        np.testing.assert_allclose(scene.image[:, :, 1] / 255, scene.coverage.sum(0), atol=0.5 / 255 + 1e-6)


def test_image_size_scales_the_objects_along() -> None:
    small, large = (render_detection_scene(np.random.default_rng(4), size) for size in (80, 320))
    for scene, size in ((small, 80), (large, 320)):
        assert scene.image.shape == (size, size, 3)
        assert scene.image.dtype == np.uint8
    config = DetectionSceneConfig(min_objects=1, max_objects=1, smallest=0.5, largest=0.5, inside=1.0)
    for size in (64, 256):
        (box,) = render_detection_scene(np.random.default_rng(0), size, config).boxes
        assert max(box[2:] - box[:2]) == pytest.approx(size / 2, abs=0.5)


def test_kinds_of_size_are_drawn_in_their_shares_whatever_the_category() -> None:
    """1500 sizes as drawn, before anything hides a part of them."""
    scene = DetectionSceneConfig(kinds=rare_sizes(1.0), deviation=0.05)
    rng = np.random.default_rng(2)
    shapes = [detection._draw_object(rng, 128, scene) for _ in range(1500)]
    longer = np.array([max(shape.mask.shape) / FINE for shape in shapes])
    kind = np.digitize(longer, [25.0, 57.0])  # between 16, 40 and 80 pixels
    assert np.bincount(kind, minlength=3) / 1500 == pytest.approx([0.07, 0.86, 0.07], abs=0.025)
    for number, pixels in enumerate((16, 40, 80)):
        # The window is of whole pixels around the object.
        assert np.median(longer[kind == number]) == pytest.approx(pixels, abs=2)
    category = np.array([shape.category_id for shape in shapes])
    for name in CATEGORIES:
        assert np.mean(kind[category == name] == 1) == pytest.approx(0.86, abs=0.06)


def test_kinds_of_no_spread_are_all_alike() -> None:
    assert {kind.longer for kind in rare_sizes(0.0)} == {10 / 32}
    assert [kind.longer * 24 for kind in rare_sizes(1.0, side=24)] == pytest.approx([4, 10, 20])


@pytest.mark.parametrize(
    "field",
    [
        {"min_objects": 9},
        {"smallest": 0.9},
        {"largest": 1.5},
        {"max_aspect": 0.5},
        {"min_visible": 0.0},
        {"inside": 1.1},
        {"jpeg_quality": 0},
        {"kinds": (SizeKind(0.5, 0.1),)},
        {"kinds": (SizeKind(1.0, 1.1),)},
        {"deviation": -0.1},
    ],
)
def test_bad_scene_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        DetectionSceneConfig(**field)
