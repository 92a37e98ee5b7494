import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageColor

from mdnkernels.models.skeleton import COCO_PERSON, Skeleton
from mdnkernels.train.drawing.colours import COMPONENT_COLOURS, NEUTRAL_COLOUR, component_colour
from mdnkernels.train.drawing.poses import draw_poses, right_colour

# A head, a left and a right hand.
ARMS = Skeleton(("head", "left", "right"), (0.1, 0.1, 0.1), flip_pairs=((1, 2),), links=((0, 1), (0, 2)))
BOX = [180, 80, 520, 420]
POINTS = [[350, 100], [500, 400], [200, 400]]


def _photograph(width: int = 700, height: int = 500) -> Image.Image:
    pixels = np.random.default_rng(0).integers(60, 190, (height // 20, width // 20, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def _draw(image: Image.Image, points: object = POINTS, sigmas: object = None, **options: object) -> Image.Image:
    """Draw one person of component 0."""
    given = {"boxes": [BOX], "scores": [0.9], "components": [0], "skeleton": ARMS, "legend": False} | options
    return draw_poses(image, keypoints=[points], sigmas=None if sigmas is None else [sigmas], **given)


def _is(image: Image.Image, at: tuple[float, float], colour: str) -> bool:
    return image.getpixel((round(at[0]), round(at[1]))) == ImageColor.getrgb(colour)


def _count(image: Image.Image, colour: str) -> int:
    return int((np.asarray(image) == ImageColor.getrgb(colour)).all(-1).sum())


def test_limbs_join_keypoints_and_the_rest_of_the_picture_stays() -> None:
    image = _photograph()
    drawn = _draw(image)
    assert drawn.size == image.size
    changed = (np.asarray(drawn) != np.asarray(image)).any(-1)
    for x, y in POINTS:
        assert changed[y, x]
    for share in (0.3, 0.5, 0.7):
        for hand in POINTS[1:]:
            x, y = (np.array(POINTS[0]) * (1 - share) + np.array(hand) * share).round().astype(int)
            assert changed[y, x]
    assert not changed[380:410, 260:440].any()  # between the hands: they are not linked
    assert not changed[:, :150].any()
    assert not changed[430:].any()


def test_left_has_the_component_s_colour_and_right_a_darker_one() -> None:
    drawn = _draw(_photograph(), components=[2])
    head, left, right = POINTS
    assert _is(drawn, head, component_colour(2))
    assert _is(drawn, left, component_colour(2))
    assert _is(drawn, (425, 250), component_colour(2))
    assert _is(drawn, right, right_colour(component_colour(2)))
    assert _is(drawn, (275, 250), right_colour(component_colour(2)))


def test_shades_of_right_differ_from_every_colour_of_a_component() -> None:
    colours = [*COMPONENT_COLOURS, NEUTRAL_COLOUR]
    shades = [right_colour(colour) for colour in colours]
    assert len({*colours, *shades}) == 16
    for colour, shade in zip(colours, shades, strict=True):
        assert sum(ImageColor.getrgb(shade)) < 0.75 * sum(ImageColor.getrgb(colour))


def test_unlabelled_keypoints_and_their_limbs_are_left_out() -> None:
    image = _photograph()
    drawn = _draw(image, [[*POINTS[0], 2], [0, 0, 0], [*POINTS[2], 2]])
    before, after = np.asarray(image), np.asarray(drawn)
    assert np.array_equal(before[100:400, 400:500], after[100:400, 400:500])
    assert np.array_equal(before[:40, :40], after[:40, :40])
    assert _is(drawn, POINTS[2], right_colour(component_colour(0)))


def test_hidden_keypoints_are_hollow() -> None:
    drawn = _draw(_photograph(), [[*POINTS[0], 2], [*POINTS[1], 1], [*POINTS[2], 2]])
    x, y = POINTS[1]
    assert _is(drawn, (x, y), "#FFFFFF")
    assert _is(drawn, (x + 4, y), component_colour(0))
    assert _is(drawn, (425, 250), component_colour(0))  # its limb is drawn


def test_ellipse_has_one_sigma_as_half_axes() -> None:
    image = _photograph()
    without = np.asarray(_draw(image))
    sigma = [[60, 20], [0, 0], [0, 0]]
    with_one = _draw(image, sigmas=sigma)
    rows, columns = np.nonzero((np.asarray(with_one) != without).any(-1))
    x, y = POINTS[0]
    assert abs(columns.min() - (x - 60)) <= 2
    assert abs(columns.max() - (x + 60)) <= 2
    assert abs(rows.min() - (y - 20)) <= 2
    assert abs(rows.max() - (y + 20)) <= 2
    assert _is(with_one, (x - 60, y), component_colour(0))
    assert with_one.getpixel((x - 30, y)) == image.getpixel((x - 30, y))  # an outline alone


def test_ellipses_are_thin_and_under_every_limb() -> None:
    """The ellipses of the better person leave the limbs and keypoints of the other person as they are."""
    image = _photograph()
    boxes, people = [[60, 60, 300, 440], [300, 60, 640, 440]], [[[200, 100], [260, 400], [90, 400]], POINTS]
    sigmas = np.full((2, 3, 2), 90.0)
    both = (boxes, people, sigmas, [0.9, 0.8], [0, 1], ARMS)
    with_ellipses = np.asarray(draw_poses(image, *both, legend=False))
    without = np.asarray(draw_poses(image, *both, legend=False, ellipse_score=1.1))
    drawn = (without != np.asarray(image)).any(-1)
    assert (with_ellipses[drawn] == without[drawn]).all()
    added = (with_ellipses != without).any(-1).sum()
    # Six outlines, of 2 pi 90 pixels each, one pixel thick but for steps; some of it is hidden or outside.
    assert 0.3 * 6 * 2 * np.pi * 90 < added < 6 * 2 * np.pi * 90


def test_only_sure_people_have_ellipses() -> None:
    image = _photograph()
    sigmas = [[40, 40]] * 3
    for score, option, expected in (
        (0.49, {}, False),
        (0.5, {}, True),
        (0.7, {"ellipse_score": 0.8}, False),
        (0.4, {"ellipse_score": 0.0}, True),
        (1.0, {"ellipse_score": 1.1}, False),
    ):
        drawn = _draw(image, sigmas=sigmas, scores=[score], **option)
        assert (not np.array_equal(np.asarray(drawn), np.asarray(_draw(image, scores=[score])))) == expected, score


@pytest.mark.parametrize("sigma", [0.0, -3.0, np.nan, np.inf, 1e9])
def test_impossible_sigmas_have_no_ellipse(sigma: float) -> None:
    image = _photograph()
    drawn = _draw(image, sigmas=[[sigma, 20]] * 3)
    assert np.array_equal(np.asarray(drawn), np.asarray(_draw(image)))


@pytest.mark.parametrize("far", [(np.nan, 10.0), (np.inf, 10.0), (1e12, -1e12), (-1500.0, 200.0)])
def test_impossible_keypoints_are_left_out(far: tuple[float, float]) -> None:
    image = _photograph()
    drawn = _draw(image, [POINTS[0], far, POINTS[2]], sigmas=[[9, 9]] * 3)
    assert not (np.asarray(drawn) != np.asarray(image))[110:400, 400:500].any()
    assert _is(drawn, POINTS[2], right_colour(component_colour(0)))


def test_a_limb_that_leaves_the_picture_is_drawn_up_to_its_border() -> None:
    drawn = _draw(_photograph(), [POINTS[0], (800, 100), POINTS[2]])
    assert _is(drawn, (698, 100), component_colour(0))


def test_small_pictures_are_enlarged_with_their_poses() -> None:
    image = Image.new("L", (100, 50), 128)
    points = [[50, 10], [70, 40], [30, 40]]
    drawn = _draw(image, points, [[5, 5], [0, 0], [0, 0]], boxes=[[25, 5, 75, 45]], min_side=400)
    assert drawn.size == (400, 200)
    assert drawn.mode == "RGB"
    assert _is(drawn, (280, 160), component_colour(0))
    assert _is(drawn, (200, 60), component_colour(0))  # the ellipse, of 5 * 4 pixels
    assert _draw(image, points, boxes=[[25, 5, 75, 45]], min_side=0).size == (100, 50)


def test_low_scores_and_boxes_outside_are_left_out() -> None:
    image = _photograph()
    boxes = [BOX, [np.nan, 1, 2, 3], [800, 10, 900, 90]]
    drawn = draw_poses(image, boxes, [POINTS] * 3, None, [0.2, 0.9, 0.9], [0, 1, 2], ARMS)
    assert np.array_equal(np.asarray(drawn), np.asarray(image))


def test_the_truth_is_neutral_and_has_neither_label_nor_legend() -> None:
    image = _photograph()
    drawn = draw_poses(image, [BOX], [POINTS], None, None, None, ARMS)
    assert drawn.size == image.size
    assert _is(drawn, POINTS[1], NEUTRAL_COLOUR)
    changed = (np.asarray(drawn) != np.asarray(image)).any(-1)
    assert not changed[: BOX[1] - 3].any()
    assert not any(_count(drawn, colour) for colour in COMPONENT_COLOURS)


def test_nobody_leaves_the_picture_as_it_is() -> None:
    image = _photograph()
    for keypoints in ([], np.zeros((0, 17, 2)), np.zeros((0, 17, 3))):
        drawn = draw_poses(image, [], keypoints, [], [], [])
        assert np.array_equal(np.asarray(drawn), np.asarray(image))


def test_legend_names_every_component() -> None:
    image = _photograph()
    drawn = _draw(image, legend=True, num_components=3)
    assert drawn.width == image.width
    strip = drawn.crop((0, image.height, drawn.width, drawn.height))
    assert [_count(strip, component_colour(k)) > 0 for k in range(5)] == [True] * 3 + [False] * 2


def test_legend_tells_right_from_left_only_where_there_are_sides() -> None:
    image = _photograph()
    strips = []
    for pairs in (ARMS.flip_pairs, ()):
        drawn = _draw(image, legend=True, skeleton=dataclasses.replace(ARMS, flip_pairs=pairs))
        strips.append(drawn.crop((0, image.height, drawn.width, drawn.height)))
    dark = [int((np.asarray(strip.convert("L")) < 100).sum()) for strip in strips]
    assert dark[1] < 0.75 * dark[0]


def test_the_best_pose_is_on_top_and_each_has_its_label() -> None:
    image = _photograph()
    apart = [_count(_draw(image, components=[k]), component_colour(k)) for k in range(2)]
    both = draw_poses(image, [BOX] * 2, [POINTS] * 2, None, [0.6, 0.9], [0, 1], ARMS, legend=False)
    assert _is(both, POINTS[1], component_colour(1))
    assert _count(both, component_colour(1)) == apart[1]
    # Of the other one, the label is left: it has found a place beside the first.
    assert _count(both, component_colour(0)) > 600


def test_lines_are_thinner_on_a_small_person() -> None:
    image = _photograph()
    small = (np.array(POINTS) - 300) * 0.1 + 300
    widths = []
    for points, box in ((POINTS, BOX), (small, (np.array(BOX) - 300) * 0.1 + 300)):
        drawn = np.asarray(_draw(image, points, boxes=[box], scores=None, components=None))
        x, y = np.mean(points[:2], axis=0).round().astype(int)
        row = (drawn[y, x - 12 : x + 13] == ImageColor.getrgb(NEUTRAL_COLOUR)).all(-1)
        widths.append(row.sum())
    assert widths[0] > widths[1] >= 1


def test_coco_person_is_drawn_with_all_its_links() -> None:
    points = np.random.default_rng(0).uniform(100, 400, (17, 2))
    drawn = draw_poses(_photograph(), [[90, 90, 410, 410]], [points], None, None, None)
    for a, b in COCO_PERSON.links:
        x, y = points[[a, b]].mean(0).round().astype(int)
        around = np.asarray(drawn)[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
        colours = [ImageColor.getrgb(colour) for colour in (NEUTRAL_COLOUR, right_colour(NEUTRAL_COLOUR))]
        assert any((around == colour).all(-1).any() for colour in colours), (a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": [[1, 2, 3]]}, r"boxes has shape \(1, 3\)"),
        ({"keypoints": [[[1, 2]]]}, r"keypoints has shape \(1, 1, 2\): need \(1, 3, 2\)"),
        ({"keypoints": []}, r"keypoints has shape \(0,\)"),
        ({"keypoints": [[[1, 2, 2, 2]] * 3]}, r"keypoints has shape \(1, 3, 4\)"),
        ({"sigmas": [[[1, 2]]]}, r"sigmas has shape \(1, 1, 2\): need \(1, 3, 2\)"),
        ({"scores": [[0.5]]}, "scores has shape"),
        ({"components": []}, "components has shape"),
    ],
)
def test_bad_arrays_are_named(change: dict[str, list], message: str) -> None:
    arguments = {"boxes": [BOX], "keypoints": [POINTS], "sigmas": None, "scores": [0.5], "components": [0]} | change
    with pytest.raises(ValueError, match=message):
        draw_poses(_photograph(), **arguments, skeleton=ARMS)
