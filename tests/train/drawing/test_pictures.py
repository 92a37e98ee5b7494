import numpy as np
import pytest
from PIL import Image, ImageColor

from mdnkernels.train.drawing.canvas import draw_legend
from mdnkernels.train.drawing.colours import COMPONENT_COLOURS, NEUTRAL_COLOUR, component_colour
from mdnkernels.train.drawing.pictures import draw_detections, grid

NAMES = ["ellipse", "star"]


def _photograph(width: int = 700, height: int = 500) -> Image.Image:
    pixels = np.random.default_rng(0).integers(60, 190, (height // 20, width // 20, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def _has(image: Image.Image, colour: str, region: tuple[int, int, int, int] | None = None) -> bool:
    pixels = np.asarray(image.crop(region) if region else image)
    return bool((pixels == ImageColor.getrgb(colour)).all(-1).any())


def test_picture_changes_at_the_box_and_stays_elsewhere() -> None:
    image = _photograph()
    drawn = draw_detections(image, [[300, 200, 420, 330]], [1], [0.9], [0], NAMES, legend=False)
    assert drawn.size == image.size
    changed = (np.asarray(drawn) != np.asarray(image)).any(-1)
    frame = np.zeros_like(changed)
    frame[200:330, 300:420] = True
    frame[206:324, 306:414] = False
    assert changed[frame].mean() > 0.5
    assert not changed[208:322, 308:412].any()  # inside the frame
    assert not changed[:150].any()
    assert not changed[340:].any()
    assert not changed[:, :290].any()


def test_frame_has_the_component_s_colour() -> None:
    boxes = [[50, 100, 150, 200], [250, 100, 350, 200], [450, 100, 550, 200]]
    drawn = draw_detections(_photograph(), boxes, [0, 1, 0], [0.9, 0.8, 0.7], [2, 0, -1], NAMES, legend=False)
    for box, colour in zip(boxes, (component_colour(2), component_colour(0), NEUTRAL_COLOUR), strict=True):
        x1, y1, x2, _ = box
        assert drawn.getpixel(((x1 + x2) // 2, y1 + 1)) == ImageColor.getrgb(colour)


def test_low_scores_padding_and_impossible_boxes_are_left_out() -> None:
    image = _photograph()
    boxes = [[10, 10, 90, 90], [10, 10, 90, 90], [np.nan, 1, 2, 3], [800, 10, 900, 90], [-50, -50, -10, -10]]
    drawn = draw_detections(image, boxes, [0, -1, 0, 0, 0], [0.2, 0.9, 0.9, 0.9, 0.9], [0] * 5, NAMES)
    assert np.array_equal(np.asarray(drawn), np.asarray(image))


def test_boxes_that_stick_out_or_are_turned_over_or_empty_are_drawn() -> None:
    boxes = [[-100, -100, 60, 60], [650, 450, 9000, 9000], [400, 300, 300, 200], [200, 200, 200, 200]]
    drawn = draw_detections(_photograph(), boxes, [0] * 4, None, [0, 1, 2, 3], NAMES, legend=False)
    for component in range(4):
        assert _has(drawn, component_colour(component))


def test_no_detection_leaves_the_picture_as_it_is() -> None:
    image = _photograph()
    drawn = draw_detections(image, np.zeros((0, 4)), [], [], [], NAMES)
    assert np.array_equal(np.asarray(drawn), np.asarray(image))


def test_scores_none_draws_every_box_as_truth() -> None:
    drawn = draw_detections(_photograph(), [[10, 40, 90, 90]], [0], None, None, NAMES)
    assert drawn.size == (700, 500)  # no legend either
    assert _has(drawn, NEUTRAL_COLOUR)
    assert not any(_has(drawn, colour) for colour in COMPONENT_COLOURS)


def test_legend_names_every_component() -> None:
    image = _photograph()
    drawn = draw_detections(image, [[10, 40, 90, 90]], [0], [0.9], [0], NAMES, num_components=3)
    assert drawn.width == image.width
    strip = (0, image.height, drawn.width, drawn.height)
    assert drawn.height > image.height
    assert [_has(drawn, component_colour(k), strip) for k in range(5)] == [True] * 3 + [False] * 2


def test_legend_wraps_in_a_narrow_picture() -> None:
    narrow = draw_legend(7, 160)
    assert narrow.width == 160
    assert narrow.height > draw_legend(7, 900).height
    assert all(_has(narrow, component_colour(k)) for k in range(7))


def test_small_pictures_are_enlarged_with_their_boxes() -> None:
    image = Image.new("L", (100, 50), 128)
    drawn = draw_detections(image, [[40, 20, 60, 40]], [0], [0.9], [1], NAMES, min_side=400, legend=False)
    assert drawn.size == (400, 200)
    assert drawn.mode == "RGB"
    assert drawn.getpixel((200, 81)) == ImageColor.getrgb(component_colour(1))
    assert draw_detections(image, [[40, 20, 60, 40]], [0], [0.9], [1], NAMES, min_side=0, legend=False).size == (
        100,
        50,
    )


def _label_pixels(drawn: Image.Image, plain: Image.Image, component: int) -> int:
    wanted = np.array(ImageColor.getrgb(component_colour(component)))
    new = (np.asarray(drawn) == wanted).all(-1) & (np.asarray(plain) != wanted).any(-1)
    return int(new.sum())


@pytest.mark.parametrize("corner", [(0, 0), (600, 0), (0, 420), (600, 420)])
def test_labels_at_the_border_stay_inside(corner: tuple[int, int]) -> None:
    image = _photograph()
    x, y = corner
    centre = draw_detections(image, [[300, 200, 400, 280]], [0], [0.9], [0], NAMES, legend=False)
    border = draw_detections(image, [[x, y, x + 100, y + 80]], [0], [0.9], [0], NAMES, legend=False)
    # A label that left the picture would have fewer pixels of its colour. Frame lines at the border are whole too.
    assert _label_pixels(border, image, 0) == pytest.approx(_label_pixels(centre, image, 0), rel=0.03)


def test_labels_of_boxes_with_one_place_do_not_cover_each_other() -> None:
    image = _photograph()
    box = [300, 200, 400, 280]
    apart = sum(
        _label_pixels(draw_detections(image, [box], [0], [0.9], [k], NAMES, legend=False), image, k) for k in range(4)
    )
    frame = 4 * 2 * (100 + 80)
    together = draw_detections(image, [box] * 4, [0] * 4, [0.9, 0.8, 0.7, 0.6], [0, 1, 2, 3], NAMES, legend=False)
    labels = sum(_label_pixels(together, image, k) for k in range(4))
    # Three of the four frames are under the first; the labels are all whole.
    assert labels > apart - 3 * frame
    for k in range(4):
        assert _label_pixels(together, image, k) > 800


def test_a_long_name_is_shortened_to_the_picture() -> None:
    drawn = draw_detections(_photograph(200, 100), [[10, 40, 90, 90]], [0], [0.9], [0], ["x" * 500], min_side=0)
    assert drawn.width == 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": [[1, 2, 3]]}, r"boxes has shape \(1, 3\)"),
        ({"labels": [0, 1]}, r"labels has shape \(2,\)"),
        ({"scores": [[0.5]]}, "scores has shape"),
        ({"components": []}, "components has shape"),
        ({"labels": [2]}, "labels holds 2, but category_names has 2"),
    ],
)
def test_bad_arrays_are_named(change: dict[str, list], message: str) -> None:
    arguments = {"boxes": [[1, 2, 30, 40]], "labels": [0], "scores": [0.5], "components": [0]} | change
    with pytest.raises(ValueError, match=message):
        draw_detections(_photograph(), **arguments, category_names=NAMES)


def test_grid_places_pictures_in_rows_with_captions_and_legend() -> None:
    colours = ["#102030", "#405060", "#708090"]
    images = [Image.new("RGB", (100, 60), colour) for colour in colours]
    sheet = grid(images, 2, gap=10)
    assert sheet.size == (230, 150)
    for colour, position in zip(colours, [(10, 10), (120, 10), (10, 80)], strict=True):
        assert sheet.getpixel(position) == ImageColor.getrgb(colour)
    assert sheet.getpixel((120, 80)) == (255, 255, 255)
    captioned = grid(images, 2, captions=["truth", "base", "mixture"], gap=10, num_components=2)
    assert captioned.width == sheet.width
    assert captioned.height > sheet.height
    assert _has(captioned, component_colour(1))
    assert grid(images, 3, cell=50, gap=0).size == (150, 30)


def test_grid_refuses_what_it_cannot_lay_out() -> None:
    image = Image.new("RGB", (8, 8))
    with pytest.raises(ValueError, match="images is empty"):
        grid([], 2)
    with pytest.raises(ValueError, match="columns is 0"):
        grid([image], 0)
    with pytest.raises(ValueError, match="captions has 2 entries for 1"):
        grid([image], 1, captions=["a", "b"])


def test_palette_is_distinct_and_repeats() -> None:
    assert len(set(COMPONENT_COLOURS)) == len(COMPONENT_COLOURS) == 7
    assert component_colour(7) == component_colour(0)
    assert component_colour(-1) == NEUTRAL_COLOUR
