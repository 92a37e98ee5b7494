"""A synthetic pose data set like the detection one: articulated figures seen from front or back, cues of the view
sometimes hidden, keypoints sometimes occluded.

It is made for watching what a mixture does with a target of two values. Where nothing shows whether a figure faces the
viewer, which arm is the left one is a toss-up: two poses, each right half the time, whose mean is a figure with all its
limbs on the spine. A regressor with an L1 loss goes for something between the two; a mixture can keep both.

Keypoints are labelled as COCO's annotators do it: v = 2 for one that is seen; v = 1 for one that is hidden, by another
figure, an object or the figure's own body, yet whose place can be told from the rest; v = 0 and x = y = 0 for one
outside the picture, and for nose and eyes from the back, which nobody would place. In a hood the nose and the eyes of a
front view have v = 1. Left and right are the figure's own, whether or not they can be told. Keypoints are continuous
coordinates like the boxes' edges: the centre of pixel i is at i + 0.5.

Two fields of an annotation go beyond COCO's, for analysis; a detector must not see them:
- "view": "front" or "back".
- "cue_hidden": true where no part is seen of what tells front from back. Then the picture is exactly as likely from the
  front as from the back, if `PoseSceneConfig.front` is 0.5, so that left and right are a toss-up.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdnkernels.models.skeleton import COCO_PERSON
from mdnkernels.train.synthetic.figures import PAINTS, Figure, Look, draw_figure, paint_figure
from mdnkernels.train.synthetic.scenery import (
    FINE,
    Floats,
    Mask,
    Place,
    Placed,
    background,
    check_scene,
    check_share,
    coarse,
    fill,
    find_place,
    fine,
    log_uniform,
    outline,
    surface,
)
from mdnkernels.train.synthetic.sets import Scene, SyntheticSet, check_image_size, describe_placed

CATEGORY_ID = 1  # COCO's person

_COVERS = ("ellipse", "rectangle", "triangle", "star")


@dataclass(frozen=True)
class PoseSceneConfig:
    """What a picture holds. Lengths are fractions of the picture's side, so that every size looks alike."""

    min_objects: int = 1
    max_objects: int = 4
    """Figures tried in a picture, uniform between the two; one that finds no visible place is left out."""
    smallest: float = 16 / 160
    largest: float = 152 / 160
    """Longer side of a figure's whole box, log-uniform between the two."""
    unlabelled_below: float = 26 / 160
    """Figures whose whole box is smaller have a box but no keypoints (num_keypoints is 0), as small people in COCO."""
    inside: float = 0.75
    """Share of the figures placed wholly inside the picture; the others have their centre anywhere in it."""
    min_visible: float = 0.45
    """A figure's visible area over its whole area, the part outside the picture included, is at least this."""
    front: float = 0.5
    """Share of the figures seen from the front; the others are seen from the back."""
    hidden: float = 0.4
    """Share of the figures whose view cannot be told: with a hood, or an object in front of the head, and nothing on
    the chest or the back. Others may lose their cues to the border, to their arms, or to what stands in front."""
    occluded: float = 0.35
    """Share of the figures with an object in front of some keypoint."""
    spread: float = 1.0
    """How far figures turn and bend, as a share of the whole range; at 0 all stand straight with hanging arms."""
    jpeg_quality: int = 92

    def __post_init__(self) -> None:
        check_scene(self)
        for name in ("unlabelled_below", "front", "hidden", "occluded", "spread"):
            check_share(name, getattr(self, name))


@dataclass(frozen=True)
class PoseScene(Scene):
    """One picture and its truth; K keypoints as in COCO_PERSON."""

    keypoints: NDArray[np.float64]
    """(N, K, 3) x, y in pixels and COCO's v: 2 visible, 1 occluded, 0 not labelled, with x = y = 0."""
    front: Mask
    """(N,) seen from the front."""
    cue_hidden: Mask
    """(N,) nothing of what tells the views apart is seen."""


def render_pose_scene(
    rng: np.random.Generator, image_size: int = 160, scene: PoseSceneConfig | None = None
) -> PoseScene:
    """Draw one picture and its truth, from the front to the back as `render_detection_scene` does.

    The random numbers drawn do not depend on a figure's view: scenes that differ in `front` alone are alike but for the
    cues and for which keypoints are called left. ValueError where `image_size` is too small.
    """
    scene = scene or PoseSceneConfig()
    check_image_size(image_size)
    free = np.ones((image_size * FINE, image_size * FINE), dtype=bool)
    figures: list[_PlacedFigure] = []
    covers: list[_Cover] = []
    for _ in range(int(rng.integers(scene.min_objects, scene.max_objects + 1))):
        longer = image_size * log_uniform(rng, scene.smallest, scene.largest)
        look, behind_object = _draw_look(rng, scene)
        figure = draw_figure(rng, longer, look, scene.spread)
        found = find_place(figure.parts > 0, free, rng, scene)
        if found is None:
            continue
        place, seen = found
        in_front = [_head_cover(rng, figure, place)] if behind_object else []
        if rng.random() < scene.occluded:
            in_front.append(_keypoint_cover(rng, figure, place, longer))
        for cover in in_front:
            left = seen & ~cover.mask[fine(place.there)]
            if np.count_nonzero(left) >= scene.min_visible * np.count_nonzero(figure.parts):
                seen = left
                covers.append(cover._replace(mask=cover.mask & free))
                free &= ~cover.mask
        free[fine(place.there)] &= ~seen
        labelled = longer >= scene.unlabelled_below * image_size
        figures.append(_PlacedFigure(figure, place, seen, labelled))

    canvas = background(rng, image_size)
    pixels = canvas.copy()
    for item in figures:
        _paint(rng, pixels, canvas, item)
    for cover in covers:
        share = coarse(cover.mask)
        texture = surface(rng, coarse(cover.mask & ~cover.core), canvas.mean((1, 2)))
        pixels += share * (texture - canvas)
    return PoseScene(
        **describe_placed(pixels, [Placed(item.place, item.seen) for item in figures]),
        keypoints=np.array([_label(item) for item in figures]).reshape(-1, len(COCO_PERSON.names), 3),
        front=np.array([item.figure.front for item in figures], dtype=bool),
        cue_hidden=np.array(
            [not (item.seen & item.figure.cue[fine(item.place.own)]).any() for item in figures], dtype=bool
        ),
    )


class _PlacedFigure(NamedTuple):
    """A figure at its place."""

    figure: Figure
    place: Place
    seen: Mask  # the part of the window inside the picture, on the fine grid
    labelled: bool


class _Cover(NamedTuple):
    """An object in front of a figure, on the picture's fine grid."""

    mask: Mask
    core: Mask  # without the outline


def _draw_look(rng: np.random.Generator, scene: PoseSceneConfig) -> tuple[Look, bool]:
    """Draw what shows the view of a figure, and whether an object is to hide its head."""
    front, hidden, hood, marked = (rng.random(4) < [scene.front, scene.hidden, 0.5, 0.75]).tolist()
    return Look(front, featured=not (hidden and hood), marked=marked and not hidden), hidden and not hood


def _head_cover(rng: np.random.Generator, figure: Figure, place: Place) -> _Cover:
    x1, y1, x2, y2 = figure.head
    name = _COVERS[int(rng.integers(2))]
    grow = 1.45 if name == "ellipse" else 1.15
    half = np.array([x2 - x1, y2 - y1]) / 2 * grow + 0.5
    return _cover(name, np.array([x1 + x2, y1 + y2]) / 2 + [place.left, place.top], half, place.image_size)


def _keypoint_cover(rng: np.random.Generator, figure: Figure, place: Place, longer: float) -> _Cover:
    name = str(rng.choice(_COVERS))
    # Not at a keypoint itself, so that its place says nothing about where exactly the keypoint is.
    half = np.array([longer * log_uniform(rng, 0.06, 0.2) for _ in range(2)])
    i = int(rng.integers(len(figure.keypoints)))
    # On a side of the image, not of the figure: the object must be in the same place from the front and the back.
    keypoint = figure.keypoints[i if figure.front else COCO_PERSON.mirrored[i]]
    middle = keypoint + rng.uniform(-0.5, 0.5, 2) * half + [place.left, place.top]
    return _cover(name, middle, half, place.image_size)


def _cover(name: str, middle: NDArray[np.float64], half: NDArray[np.float64], image_size: int) -> _Cover:
    side = image_size * FINE
    inset = max(0.1, 1 - max(0.8 * image_size / 160, 0.06 * half.min()) / half.max())
    return _Cover(*(fill((outline(name) * half * scale + middle) * FINE, side, side) for scale in (1.0, inset)))


def _paint(rng: np.random.Generator, pixels: Floats, canvas: Floats, item: _PlacedFigure) -> None:
    """Put what is seen of a figure in place of the canvas."""
    there, own = ((slice(None), *part) for part in (item.place.there, item.place.own))
    under = canvas[there]
    paints = paint_figure(rng, item.place.height, item.place.width, under.mean((1, 2)))
    parts = np.where(item.seen, item.figure.parts[fine(item.place.own)], 0)
    rim = item.figure.rim[fine(item.place.own)]
    for i in range(1, len(PAINTS)):
        if (parts == i).any():
            whole, outlines = coarse(parts == i), coarse((parts == i) & rim)
            pixels[there] += whole * (paints[i][own] - under) - 0.5 * outlines * paints[i][own]


def _label(item: _PlacedFigure) -> NDArray[np.float64]:
    """Return a figure's keypoints (K, 3) as COCO labels them."""
    figure, place = item.figure, item.place
    at = figure.keypoints + np.array([place.left, place.top])
    inside = ((at >= 0) & (at < place.image_size)).all(1)
    whole = np.zeros(figure.parts.shape, dtype=bool)
    whole[fine(place.own)] = item.seen
    columns, rows = np.floor(figure.keypoints * FINE).astype(int).T
    v = np.where(whole[rows, columns] & figure.shown, 2, 1) * (inside & figure.placed & item.labelled)
    return np.concatenate([np.where(v[:, None] > 0, at, 0.0), v[:, None]], axis=1)


def _draw_annotated(
    rng: np.random.Generator, image_size: int, scene: PoseSceneConfig
) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """Draw a picture, and its figures as COCO annotates them."""
    drawn = render_pose_scene(rng, image_size, scene)
    truth = drawn.annotate([CATEGORY_ID] * len(drawn.boxes))
    for i, entry in enumerate(truth):
        keypoints = drawn.keypoints[i]
        entry["keypoints"] = [
            value if k < 2 else int(value) for row in keypoints.tolist() for k, value in enumerate(row)
        ]
        entry["num_keypoints"] = int(np.count_nonzero(keypoints[:, 2]))
        entry["view"] = "front" if drawn.front[i] else "back"
        entry["cue_hidden"] = bool(drawn.cue_hidden[i])
    return drawn.image, truth


FIGURES = SyntheticSet(
    kind="person_keypoints",
    description="synthetic figures",
    categories=[
        {
            "id": CATEGORY_ID,
            "name": "person",
            "supercategory": "person",
            "keypoints": list(COCO_PERSON.names),
            "skeleton": [[a + 1, b + 1] for a, b in COCO_PERSON.links],
        }
    ],
    scene=PoseSceneConfig(),
    draw=_draw_annotated,
)
