import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mdnkernels.models.skeleton import COCO_PERSON
from mdnkernels.train.synthetic import poses
from mdnkernels.train.synthetic.figures import PAINTS, Figure, Look, draw_figure
from mdnkernels.train.synthetic.poses import FIGURES, PoseScene, PoseSceneConfig, render_pose_scene
from mdnkernels.train.synthetic.scenery import FINE
from mdnkernels.train.synthetic.sets import SyntheticPaths

NAMES = COCO_PERSON.names
FACE = [NAMES.index(name) for name in ("nose", "left_eye", "right_eye")]
MIRRORED = list(COCO_PERSON.mirrored)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> SyntheticPaths:
    return FIGURES.write(tmp_path_factory.mktemp("pose"), train=60, val=4, seed=3)


@pytest.fixture(scope="module")
def scenes() -> list[PoseScene]:
    return [render_pose_scene(np.random.default_rng([11, i])) for i in range(80)]


def _both_views(seed: int, **fields: float) -> tuple[PoseScene, PoseScene]:
    """Return one scene with all figures seen from the front, and with all seen from the back."""
    front, back = (
        render_pose_scene(np.random.default_rng([7, seed]), 128, PoseSceneConfig(front=share, **fields))
        for share in (1.0, 0.0)
    )
    return front, back


def test_pycocotools_loads_it(written: SyntheticPaths) -> None:
    coco = COCO(str(written.train_annotations))
    (category,) = coco.loadCats(coco.getCatIds())
    assert category["keypoints"] == list(NAMES)
    assert [(a - 1, b - 1) for a, b in category["skeleton"]] == list(COCO_PERSON.links)
    assert len(coco.getImgIds()) == 60
    for annotation in coco.anns.values():
        x, y, width, height = annotation["bbox"]
        assert min(x, y) >= 0
        assert max(x + width, y + height) <= 160
        assert 0 < annotation["area"] <= width * height
        assert len(annotation["keypoints"]) == 3 * len(NAMES)
        v = np.array(annotation["keypoints"][2::3])
        assert set(v) <= {0, 1, 2}
        assert annotation["num_keypoints"] == np.count_nonzero(v)
        assert annotation["view"] in ("front", "back")
        assert isinstance(annotation["cue_hidden"], bool)
    with Image.open(written.train_images / coco.imgs[1]["file_name"]) as picture:
        assert picture.size == (160, 160)


def test_the_truth_scores_one_by_coco_s_evaluation(written: SyntheticPaths) -> None:
    coco = COCO(str(written.train_annotations))
    truth = [a for a in coco.anns.values() if a["num_keypoints"]]
    results = [{k: a[k] for k in ("image_id", "category_id", "keypoints")} | {"score": 1.0} for a in truth]
    evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == 1


def test_views_cues_and_labels_are_all_frequent(written: SyntheticPaths) -> None:
    annotations = json.loads(written.train_annotations.read_text())["annotations"]
    share = {
        "front": np.mean([a["view"] == "front" for a in annotations]),
        "hidden": np.mean([a["cue_hidden"] for a in annotations]),
        "unlabelled": np.mean([a["num_keypoints"] == 0 for a in annotations]),
    }
    assert 0.3 < share["front"] < 0.7
    assert 0.3 < share["hidden"] < 0.65
    assert 0.08 < share["unlabelled"] < 0.4
    v = np.concatenate([a["keypoints"][2::3] for a in annotations if a["num_keypoints"]])
    assert np.bincount(v, minlength=3).min() > 0.1 * len(v)


def test_sizes_spread_over_most_of_a_decade_and_the_small_have_no_keypoints(scenes: list[PoseScene]) -> None:
    boxes = np.concatenate([scene.boxes for scene in scenes])
    longer = (boxes[:, 2:] - boxes[:, :2]).max(1)
    labelled = np.concatenate([(scene.keypoints[..., 2] > 0).any(1) for scene in scenes])
    assert longer.max() / longer.min() > 8
    assert not labelled[longer < 10].any()
    assert labelled[longer > 26.5].all()


def test_boxes_are_tight_around_what_is_visible(scenes: list[PoseScene]) -> None:
    for scene in scenes:
        for box, coverage, area in zip(scene.boxes, scene.coverage, scene.areas, strict=True):
            rows, columns = np.flatnonzero(coverage.any(1)), np.flatnonzero(coverage.any(0))
            gap = (box - np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])) * [1, 1, -1, -1]
            assert gap.min() >= 0
            assert gap.max() < 1
            assert area == pytest.approx(coverage.sum(), rel=1e-5)
        assert scene.coverage.sum(0).max(initial=0) <= 1 + 1e-6


def test_unlabelled_keypoints_are_zero_and_labelled_ones_in_the_picture(scenes: list[PoseScene]) -> None:
    keypoints = np.concatenate([scene.keypoints for scene in scenes])
    v = keypoints[..., 2]
    assert not keypoints[v == 0].any()
    assert (keypoints[v > 0][:, :2] > 0).all()
    assert (keypoints[..., :2] < 160).all()
    cut = np.concatenate([(scene.boxes == 0) | (scene.boxes == 160) for scene in scenes]).any(1)
    body = v[:, [i for i in range(len(NAMES)) if i not in FACE]]
    assert (body[cut & (v > 0).any(1)] == 0).any()
    assert (body[~cut & (v > 0).any(1)] > 0).mean() > 0.99


def test_visible_keypoints_are_on_the_part_that_is_drawn_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every paint is a flat colour of its own, without outlines, so the picture says which part is where."""
    flat = np.random.default_rng(0).random((len(PAINTS), 3)).astype(np.float32)
    expected = {
        "nose": {"skin", "dark"},
        "eye": {"dark"},
        "ear": {"skin", "hair", "hood"},
        "shoulder": {"shirt"},
        "elbow": {"shirt", "skin"},
        "wrist": {"shirt", "skin"},
        "hip": {"shirt", "trousers"},
        "knee": {"trousers", "skin"},
        "ankle": {"trousers", "skin", "shoes"},
    }
    monkeypatch.setattr(
        poses,
        "paint_figure",
        lambda rng, height, width, under: [c[:, None, None] * np.ones((1, height, width), np.float32) for c in flat],
    )
    monkeypatch.setattr(poses, "draw_figure", _without_rim)
    scene_config = PoseSceneConfig(smallest=0.8, largest=1.0)
    seen = dict.fromkeys(expected, 0)
    labelled = 0
    for seed in range(30):
        scene = render_pose_scene(np.random.default_rng(seed), 160, scene_config)
        for x, y, v, name in [(*row, n) for figure in scene.keypoints for row, n in zip(figure, NAMES, strict=True)]:
            labelled += v == 2
            gap = np.abs(scene.image[int(y), int(x)] / 255 - flat).max(1)
            if v != 2 or gap.min() > 0.003:  # hidden, or an edge runs through the pixel
                continue
            kind = name.split("_")[-1]
            assert PAINTS[gap.argmin()] in expected[kind], (seed, name)
            seen[kind] += 1
    assert min(seen.values()) >= 8
    assert sum(seen.values()) > 0.8 * labelled


def _without_rim(rng: np.random.Generator, longer: float, look: Look, spread: float) -> Figure:
    figure = draw_figure(rng, longer, look, spread)
    return figure._replace(rim=np.zeros_like(figure.rim))


def test_figures_of_no_spread_all_stand_with_hanging_arms() -> None:
    """Shoulder, wrist and ankle of each side lie below one another, the wrist exactly below the shoulder."""
    for seed in range(20):
        figure = draw_figure(np.random.default_rng(seed), 100, Look(True, True, True), 0.0)
        for side in ("left", "right"):
            shoulder, wrist, ankle = (
                figure.keypoints[NAMES.index(f"{side}_{name}")] for name in ("shoulder", "wrist", "ankle")
            )
            assert shoulder[1] < wrist[1] < ankle[1]
            assert abs(wrist[0] - shoulder[0]) < 1e-9


@pytest.mark.parametrize("name", ["wrist", "ankle", "knee"])
def test_left_and_right_are_the_figure_s_own(name: str) -> None:
    """From the front the left limb is mostly on the right in the image, from the back on the left."""
    left, right = NAMES.index(f"left_{name}"), NAMES.index(f"right_{name}")
    for front, sign in ((True, 1), (False, -1)):
        figures = [draw_figure(np.random.default_rng(i), 100, Look(front, True, True)) for i in range(60)]
        across = np.array([figure.keypoints[left, 0] - figure.keypoints[right, 0] for figure in figures])
        assert np.mean(sign * across > 0) > 0.75


def test_the_other_view_changes_the_sides_of_every_keypoint() -> None:
    for seed in range(20):
        front, back = _both_views(seed)
        np.testing.assert_array_equal(front.boxes, back.boxes)
        assert front.front.all()
        assert not back.front.any()
        swapped = back.keypoints[:, MIRRORED]
        body = [i for i in range(len(NAMES)) if i not in FACE]
        np.testing.assert_array_equal(front.keypoints[:, body], swapped[:, body])
        assert not back.keypoints[:, FACE].any()


def test_without_cues_the_views_have_the_same_pixels() -> None:
    labelled = 0
    for seed in range(20):
        front, back = _both_views(seed, hidden=1.0)
        labelled += np.count_nonzero((front.keypoints != back.keypoints).any((1, 2)))
        if front.cue_hidden.all():  # an object may find no place in front of a head
            np.testing.assert_array_equal(front.image, back.image)
    assert labelled > 10
    front, back = (draw_figure(np.random.default_rng(4), 90, Look(view, False, False)) for view in (True, False))
    np.testing.assert_array_equal(front.parts, back.parts)
    np.testing.assert_array_equal(front.rim, back.rim)


def test_a_figure_is_the_same_from_both_sides_exactly_where_its_cues_are_hidden() -> None:
    hidden = shown = 0
    for seed in range(60):
        front, back = _both_views(seed, smallest=0.4)
        np.testing.assert_array_equal(front.cue_hidden, back.cue_hidden)
        differs = (front.image != back.image).any(2)
        for coverage, is_hidden in zip(front.coverage, front.cue_hidden, strict=True):
            alone = coverage == front.coverage.sum(0)
            assert not (is_hidden and differs[(coverage > 0) & alone].any()), seed
            hidden += is_hidden
            shown += (not is_hidden) and differs[coverage > 0].any()
    assert hidden > 20
    assert shown > 20


def test_hidden_cues_cover_what_the_share_asks_for() -> None:
    for share, low, high in ((0.0, 0.0, 0.35), (1.0, 0.9, 1.0)):
        config = PoseSceneConfig(hidden=share)
        found = [render_pose_scene(np.random.default_rng(i), 96, config).cue_hidden for i in range(40)]
        assert low <= np.concatenate(found).mean() <= high


def test_own_body_hides_keypoints() -> None:
    figures = [draw_figure(np.random.default_rng(i), 120, Look(True, True, True)) for i in range(80)]
    shown = np.stack([figure.shown for figure in figures])
    assert 0.02 < 1 - shown.mean() < 0.3
    assert shown[:, NAMES.index("nose")].mean() > 0.9
    hooded = draw_figure(np.random.default_rng(0), 120, Look(True, False, False))
    assert hooded.shown.dtype == bool
    assert not hooded.shown[FACE].any()
    assert hooded.placed.all()
    assert not draw_figure(np.random.default_rng(0), 120, Look(False, True, True)).placed[FACE].any()


def test_an_object_in_front_makes_a_keypoint_occluded() -> None:
    counts = []
    for share in (0.0, 1.0):
        config = PoseSceneConfig(max_objects=1, smallest=0.5, inside=1.0, hidden=0.0, occluded=share)
        drawn = [render_pose_scene(np.random.default_rng(i), 128, config).keypoints[0, :, 2] for i in range(40)]
        counts.append(np.mean(np.stack(drawn) == 1))
    assert counts[1] > counts[0] + 0.03


@pytest.mark.parametrize("longer", [12.0, 60.0, 150.0])
def test_a_figure_has_the_size_it_was_asked_for(longer: float) -> None:
    for seed in range(10):
        figure = draw_figure(np.random.default_rng(seed), longer, Look(True, True, True))
        extent = [np.ptp(np.flatnonzero((figure.parts > 0).any(axis))) + 1 for axis in (0, 1)]
        assert max(extent) / FINE == pytest.approx(longer, abs=0.6)
        x1, y1, x2, y2 = figure.head
        assert 0 <= x1 < x2 <= figure.parts.shape[1] / FINE
        assert 0 <= y1 < y2 <= figure.parts.shape[0] / FINE


@pytest.mark.parametrize(
    "field",
    [
        {"min_objects": 9},
        {"smallest": 0.99},
        {"largest": 1.5},
        {"min_visible": 0.0},
        {"inside": 1.1},
        {"front": -0.1},
        {"hidden": 1.5},
        {"occluded": 2.0},
        {"unlabelled_below": -1.0},
        {"jpeg_quality": 0},
    ],
)
def test_bad_scene_is_refused(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        PoseSceneConfig(**field)
