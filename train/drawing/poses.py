"""Pictures with skeletons and sigma ellipses coloured by component."""

import colorsys
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageColor, ImageDraw

from mdnkernels.models.skeleton import COCO_PERSON, Skeleton
from mdnkernels.train.drawing.canvas import Canvas, Rectangle, draw_box

# Of the middle and the left, whose colours are light, and of the right, whose colours are dark.
_BORDERS = ("#000000", "#FFFFFF")
_RIGHT, _ELLIPSE = "right: darker, on white", "ellipse: one sigma"


def draw_poses(
    image: Image.Image,
    boxes: ArrayLike,
    keypoints: ArrayLike,
    sigmas: ArrayLike | None,
    scores: ArrayLike | None,
    components: ArrayLike | None,
    skeleton: Skeleton = COCO_PERSON,
    *,
    min_score: float = 0.3,
    ellipse_score: float = 0.5,
    num_components: int | None = None,
    min_side: int = 640,
    legend: bool = True,
) -> Image.Image:
    """Draw poses over a copy of a picture.

    Each person has a thin box, a skeleton, an ellipse around each keypoint and a label `score cK`, all in the colour of
    its component K. The limbs and keypoints that are second in `skeleton.flip_pairs`, the person's right ones, have a
    darker shade of it, and a white border in place of a black one. Enlarging, the order and the places of the labels
    are those of `draw_detections`. Lines are thinner on a small person.

    Args:
        image: the picture, any mode.
        boxes: (N, 4) x1 y1 x2 y2 in pixels of `image`. Who has a box that is not finite, or nothing of it inside the
            picture, is left out.
        keypoints: (N, J, 2) x y in pixels of `image`, or (N, J, 3) with COCO's visibility v: at 0 the keypoint and its
            limbs are not drawn, at 1 it is hollow. One that is not finite, or farther outside the picture than the
            picture's own size, is not drawn either.
        sigmas: (N, J, 2) standard deviations of x and y in pixels, the half-axes of the ellipses; None for no ellipses.
            There is none either where a standard deviation is not positive, or larger than the picture.
        scores: (N,) in [0, 1]; those below `min_score` are left out. None draws everyone and no score: the truth.
        components: (N,) component indices, -1 for no component, which is drawn in a neutral colour; None for all -1.
        skeleton: names the J keypoints and links them.
        min_score: smallest score drawn.
        ellipse_score: smallest score whose ellipses are drawn; above 1 none are.
        num_components: how many components the legend lists; None for the largest one drawn.
        min_side: the longer side, in pixels, that a smaller picture is enlarged to; 0 never enlarges.
        legend: add a strip below the picture that names the components; never added when there are none.

    Returns:
        An RGB picture: `image` enlarged or not, with the legend's strip below.

    Raises:
        ValueError: the arrays' shapes do not fit.
    """
    canvas = Canvas(image, boxes, scores, components, min_side)
    points, sigma = _check_keypoints(keypoints, sigmas, canvas.count, skeleton)
    canvas.show(np.ones(canvas.count, dtype=bool), min_score)
    size, sides = canvas.picture.size, _sides(skeleton)
    pens = {i: _pen(canvas.draw, canvas.colours[i], box, canvas.line_width) for i, box in canvas.rectangles.items()}
    places = points[..., :2] * canvas.enlarge
    drawn = {i: _drawable(places[i], points[i, :, 2], size) for i in canvas.rectangles}
    sure: list[int] = []
    if sigma is not None:
        sure = [i for i in canvas.rectangles if canvas.reaches(ellipse_score)[i]]
        # Under all boxes and limbs, which they would bury in a crowd.
        for i in reversed(sure):
            _draw_ellipses(pens[i], places[i], sigma[i] * canvas.enlarge, drawn[i], sides, max(size))
    for i in reversed(canvas.rectangles):
        draw_box(canvas.draw, canvas.rectangles[i], canvas.colours[i], 1)
        _draw_limbs(pens[i], places[i], drawn[i], skeleton, sides)
        _draw_keypoints(pens[i], places[i], points[i, :, 2], drawn[i], sides)
    notes = [_RIGHT] * bool(skeleton.flip_pairs) + [_ELLIPSE] * bool(sure)
    return canvas.finish({}, num_components, legend, notes)


def right_colour(colour: str) -> str:
    """Return the darker shade of a component's colour "#RRGGBB" that its right limbs have."""
    red, green, blue = (value / 255 for value in ImageColor.getrgb(colour)[:3])
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    shade = colorsys.hls_to_rgb(hue, 0.6 * lightness, saturation)
    return "#" + "".join(f"{round(255 * value):02X}" for value in shade)


class _Pen(NamedTuple):
    """What draws one person."""

    draw: ImageDraw.ImageDraw
    colours: tuple[str, str]  # of the middle and the left, and of the right
    width: int


def _pen(draw: ImageDraw.ImageDraw, colour: str, box: Rectangle, thickest: int) -> _Pen:
    longer = max(box.x2 - box.x1, box.y2 - box.y1)
    return _Pen(draw, (colour, right_colour(colour)), max(1, min(thickest + 1, round(longer / 50))))


def _check_keypoints(
    keypoints: ArrayLike, sigmas: ArrayLike | None, count: int, skeleton: Skeleton
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return keypoints (N, J, 3), with v = 2 where none was given, and sigmas (N, J, 2), with these shapes."""
    names = len(skeleton.names)
    points = np.asarray(keypoints, dtype=np.float64)
    if points.size == 0 and not count:
        points = points.reshape(0, names, 3)
    if points.shape not in ((count, names, 2), (count, names, 3)):
        raise ValueError(
            f"keypoints has shape {points.shape}: need ({count}, {names}, 2), x y of each box's {names} keypoints, or "
            f"({count}, {names}, 3) with their visibility"
        )
    if points.shape[2] == 2:
        points = np.concatenate([points, np.full((count, names, 1), 2.0)], axis=2)
    if sigmas is None:
        return points, None
    sigma = np.asarray(sigmas, dtype=np.float64)
    if sigma.size == 0 and not count:
        sigma = sigma.reshape(0, names, 2)
    if sigma.shape != (count, names, 2):
        raise ValueError(f"sigmas has shape {sigma.shape}: need ({count}, {names}, 2), one for each x and y")
    return points, sigma


def _sides(skeleton: Skeleton) -> list[int]:
    """Return for each keypoint 1 where it is the second of a pair, -1 where it is the first, 0 in the middle."""
    sides = [0] * len(skeleton.names)
    for first, second in skeleton.flip_pairs:
        sides[first], sides[second] = -1, 1
    return sides


def _drawable(points: NDArray[np.float64], visibility: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return (J,) which of the keypoints (J, 2) are drawn: visible or hidden, and not far outside the picture."""
    near = np.abs(points - np.array(size) / 2) <= 1.5 * np.array(size)
    return near.all(1) & (visibility > 0)


def _draw_limbs(
    pen: _Pen, points: NDArray[np.float64], drawn: NDArray[np.bool_], skeleton: Skeleton, sides: list[int]
) -> None:
    """Draw the links between drawn keypoints, each over a border that shows on any background."""
    limbs = [
        ([tuple(points[a]), tuple(points[b])], sides[a] + sides[b] > 0)
        for a, b in skeleton.links
        if drawn[a] and drawn[b]
    ]
    for line, right in limbs:
        pen.draw.line(line, fill=_BORDERS[right], width=pen.width + 2)
    for line, right in limbs:
        pen.draw.line(line, fill=pen.colours[right], width=pen.width)


def _draw_ellipses(
    pen: _Pen,
    points: NDArray[np.float64],
    sigma: NDArray[np.float64],
    drawn: NDArray[np.bool_],
    sides: list[int],
    largest: int,
) -> None:
    """Draw a thin outline at one standard deviation of each drawn keypoint."""
    sane = ((sigma > 0) & (sigma <= largest)).all(1)
    for j in np.flatnonzero(drawn & sane):
        low, high = points[j] - sigma[j], points[j] + sigma[j]
        pen.draw.ellipse((*low, *high), outline=pen.colours[sides[j] > 0], width=max(1, pen.width // 3))


def _draw_keypoints(
    pen: _Pen,
    points: NDArray[np.float64],
    visibility: NDArray[np.float64],
    drawn: NDArray[np.bool_],
    sides: list[int],
) -> None:
    """Draw a disc for a visible keypoint, a ring for a hidden one."""
    radius = pen.width + 1
    for j in np.flatnonzero(drawn):
        x, y = points[j]
        for r, fill in ((radius + 1, _BORDERS[sides[j] > 0]), (radius, pen.colours[sides[j] > 0])):
            pen.draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        if visibility[j] < 2:
            hole = max(1.0, radius / 2)
            pen.draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill="#FFFFFF")
