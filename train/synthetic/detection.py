"""A small synthetic detection set in COCO format: shapes of very different sizes on textured backgrounds.

It is made for watching a detector learn within minutes on a CPU, so each property is one that real photographs have and
that matters to the regression of box size: sizes spread log-uniformly over more than a decade, width and height that
vary independently of each other and of the category, objects that hide one another, and objects cut by the border.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from train.synthetic.scenery import (
    FINE,
    Floats,
    Mask,
    Place,
    background,
    check_scene,
    coarse,
    fill,
    find_place,
    fine,
    log_uniform,
    outline,
    surface,
)
from train.synthetic.sets import SetContent, SyntheticPaths, check_image_size, write_set

# Gaps between the ids are deliberate: code that takes a category id for a class index fails on this set at once.
CATEGORIES: dict[int, str] = {3: "ellipse", 7: "rectangle", 8: "triangle", 20: "star"}


@dataclass(frozen=True)
class SceneConfig:
    """What a synthetic picture holds. Lengths are fractions of the picture's side, so that every size looks alike."""

    min_objects: int = 1
    max_objects: int = 8
    """Objects tried in a picture, uniform between the two; one that finds no visible place is left out."""
    smallest: float = 10 / 160
    largest: float = 130 / 160
    """Longer side of an object's whole box, log-uniform between the two."""
    max_aspect: float = 2.2
    """Width over height before rotation, log-uniform in [1 / max_aspect, max_aspect]."""
    max_rotation: float = 25.0
    """Degrees either way."""
    inside: float = 0.7
    """Share of the objects placed wholly inside the picture; the others have their centre anywhere in it."""
    min_visible: float = 0.4
    """An object's visible area over its whole area, the part outside the picture included, is at least this."""
    jpeg_quality: int = 92

    def __post_init__(self) -> None:
        check_scene(self)
        if not self.max_aspect >= 1:
            raise ValueError(f"max_aspect is {self.max_aspect}: need at least 1")


class Scene(NamedTuple):
    """One picture and its truth, front-most object first."""

    image: NDArray[np.uint8]
    """(S, S, 3) RGB."""
    boxes: NDArray[np.float64]
    """(N, 4) x1 y1 x2 y2 in pixels, tight around the visible part."""
    category_ids: NDArray[np.int64]
    """(N,) keys of CATEGORIES."""
    areas: NDArray[np.float64]
    """(N,) visible area in square pixels."""
    visible: NDArray[np.float64]
    """(N,) visible share of the whole object."""
    coverage: Floats
    """(N, S, S) share of each pixel that shows the object; over N it sums to at most 1."""


def write_synthetic_detection(
    root: Path, *, train: int, val: int, image_size: int = 160, seed: int = 0, scene: SceneConfig | None = None
) -> SyntheticPaths:
    """Write a COCO-format detection set under `root`: `train/`, `val/` and `annotations/instances_{train,val}.json`.

    The box rule is COCO's: a box is tight around what is *visible* of an object, after others have hidden part of it
    and the border has cut it; `area` is the area of that visible part. An object of which less than
    `scene.min_visible` would be seen is neither painted nor annotated.

    Picture i of a split is drawn from `np.random.default_rng([seed, split, i])` alone, split 0 for train and 1 for val:
    the same seed gives the same bytes (under the same Pillow and NumPy), and a smaller set starts a larger one.
    A split's annotations are removed first and written last, in one step: where they exist, every picture does.

    Args:
        root: folder to write to; made if missing. Files of the same names are replaced.
        train: number of pictures to train on.
        val: number of pictures to validate on.
        image_size: side S of the square pictures in pixels, at least 32.
        seed: non-negative.
        scene: what the pictures hold; None for the defaults.

    Returns:
        The two image folders and the two annotation files.

    Raises:
        ValueError: a count, the seed or the image size is out of range.
        OSError: `root` cannot be written.
    """
    scene = scene or SceneConfig()
    content = SetContent(
        kind="instances",
        description="synthetic shapes",
        categories=[{"id": key, "name": name, "supercategory": "shape"} for key, name in CATEGORIES.items()],
        scene=scene,
        draw=lambda rng: _drawn(rng, image_size, scene),
    )
    return write_set(root, content, train=train, val=val, image_size=image_size, seed=seed)


def render_scene(rng: np.random.Generator, image_size: int = 160, scene: SceneConfig | None = None) -> Scene:
    """Draw one picture and its truth.

    Objects are placed from the front to the back, so that what is visible of one is known, and final, once it has its
    place. On the fine grid the visible parts are disjoint; a pixel's colour is the mean of what its grid points show.

    Args:
        rng: the only source of chance.
        image_size: side S in pixels, at least 32.
        scene: what the picture holds; None for the defaults.

    Returns:
        A Scene; its fields give shapes and units.

    Raises:
        ValueError: `image_size` is too small.
    """
    scene = scene or SceneConfig()
    check_image_size(image_size)
    free = np.ones((image_size * FINE, image_size * FINE), dtype=bool)
    placed = []
    for _ in range(int(rng.integers(scene.min_objects, scene.max_objects + 1))):
        shape = _draw_object(rng, image_size, scene)
        found = find_place(shape.mask, free, rng, scene)
        if found is not None:
            place, seen = found
            free[fine(place.there)] &= ~seen
            placed.append(_Placed(shape, place, seen))

    canvas = background(rng, image_size)
    pixels = canvas.copy()
    coverage = np.zeros((len(placed), image_size, image_size), dtype=np.float32)
    for share, item in zip(coverage, placed, strict=True):
        there, own = ((slice(None), *part) for part in (item.place.there, item.place.own))
        under = canvas[there]
        paint = surface(rng, item.shape.rim, under.mean((1, 2)))[own]
        share[item.place.there] = coarse(item.seen)
        pixels[there] += share[item.place.there] * (paint - under)
    return Scene(
        image=np.ascontiguousarray((pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)),
        boxes=np.array([item.place.box(item.seen) for item in placed], dtype=np.float64).reshape(-1, 4),
        category_ids=np.array([item.shape.category_id for item in placed], dtype=np.int64),
        areas=np.array([np.count_nonzero(item.seen) / FINE**2 for item in placed], dtype=np.float64),
        visible=np.array([np.count_nonzero(item.seen) / item.shape.size for item in placed], dtype=np.float64),
        coverage=coverage,
    )


class _Shape(NamedTuple):
    """An object before it has a place, in a window of whole pixels around it."""

    category_id: int
    mask: Mask  # (h * FINE, w * FINE)
    size: int  # cells of the mask that are set
    rim: Floats  # (h, w), 1 on the outline, 0 elsewhere


class _Placed(NamedTuple):
    """A shape at its place."""

    shape: _Shape
    place: Place
    seen: Mask  # the part of the window inside the picture, on the fine grid


_OUTLINES = {category_id: outline(name) for category_id, name in CATEGORIES.items()}


def _draw_object(rng: np.random.Generator, image_size: int, scene: SceneConfig) -> _Shape:
    """A shape of random category, size, aspect and rotation, at a random phase to the pixel grid."""
    category_id = int(rng.choice(list(CATEGORIES)))
    longer = image_size * log_uniform(rng, scene.smallest, scene.largest)
    stretch = math.exp(rng.uniform(-0.5, 0.5) * math.log(scene.max_aspect))
    angle = math.radians(rng.uniform(-scene.max_rotation, scene.max_rotation))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    corners = (_OUTLINES[category_id] * [stretch, 1 / stretch]) @ turn
    extent = np.ptp(corners, axis=0)
    corners = (corners - corners.min(0) - extent / 2) * (longer / extent.max())
    phase = rng.random(2)
    width, height = np.ceil(extent * (longer / extent.max()) + phase).astype(int)
    middle = phase + extent * (longer / extent.max()) / 2
    inset = 1 - 2 * max(0.8 * image_size / 160, 0.03 * longer) / longer
    mask, core = (fill((corners * scale + middle) * FINE, width * FINE, height * FINE) for scale in (1.0, inset))
    return _Shape(category_id, mask, int(np.count_nonzero(mask)), coarse(mask & ~core))


def _drawn(
    rng: np.random.Generator, image_size: int, scene: SceneConfig
) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """A picture and its objects as COCO annotates them."""
    drawn = render_scene(rng, image_size, scene)
    truth = [
        {
            "category_id": category_id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": area,
            "iscrowd": 0,
        }
        for (x1, y1, x2, y2), category_id, area in zip(
            drawn.boxes.tolist(), drawn.category_ids.tolist(), drawn.areas.tolist(), strict=True
        )
    ]
    return drawn.image, truth
