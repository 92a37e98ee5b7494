"""A small synthetic detection set in COCO format: shapes of very different sizes on textured backgrounds.

It is made for watching a detector learn within minutes on a CPU, so each property is one that real photographs have and
that matters to the regression of box size: sizes spread log-uniformly over more than a decade, width and height that
vary independently of each other and of the category, objects that hide one another, and objects cut by the border.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdnkernels.train.synthetic.scenery import (
    FINE,
    Floats,
    Mask,
    Placed,
    background,
    check_scene,
    check_share,
    coarse,
    find_place,
    fine,
    log_uniform,
    outline,
    surface,
    turn_outline,
)
from mdnkernels.train.synthetic.sets import Scene, SyntheticSet, check_image_size, describe_placed

# Gaps between the ids are deliberate: code that takes a category id for a class index fails on this set at once.
CATEGORIES: dict[int, str] = {3: "ellipse", 7: "rectangle", 8: "triangle", 20: "star"}


class SizeKind(NamedTuple):
    """A kind of size: objects whose sizes lie close together."""

    share: float
    """Of the objects tried; the shares of all kinds sum to 1."""
    longer: float
    """Median of the longer side of an object's whole box, as a fraction of the picture's."""


def check_kinds(kinds: Sequence[SizeKind]) -> None:
    """Raise ValueError for shares that do not sum to 1, and for sizes that no object in a picture can have."""
    if not math.isclose(sum(kind.share for kind in kinds), 1):
        raise ValueError(f"kinds have shares {', '.join(f'{kind.share:g}' for kind in kinds)}: need a sum of 1")
    for kind in kinds:
        check_share("share of one of kinds", kind.share)
        if not 0 < kind.longer <= 1:
            raise ValueError(f"kinds has a longer side of {kind.longer:g}: need one above 0 and at most 1")


def draw_longer(rng: np.random.Generator, kind: SizeKind, deviation: float) -> float:
    """Draw the longer side of an object of a kind, as a fraction of the picture's.

    deviation: standard deviation of its log.
    """
    return kind.longer * math.exp(rng.normal(0, deviation))


def rare_sizes(spread: float, *, side: int = 32) -> tuple[SizeKind, ...]:
    """Return three kinds of size, small 7 %, middle 86 %, large 7 %, of 4, 10 and 20 cells.

    side: of the picture, in cells. spread: how far the rare kinds are from the middle one, as a share of that in log
    size; at 0 all are alike.
    """
    return tuple(
        SizeKind(share, 10 / side * (cells / 10) ** spread) for share, cells in ((0.07, 4), (0.86, 10), (0.07, 20))
    )


@dataclass(frozen=True)
class DetectionSceneConfig:
    """What a synthetic picture holds. Lengths are fractions of the picture's side, so that every size looks alike."""

    min_objects: int = 1
    max_objects: int = 8
    """Objects tried in a picture, uniform between the two; one that finds no visible place is left out."""
    smallest: float = 10 / 160
    largest: float = 130 / 160
    """Longer side of an object's whole box, log-uniform between the two, where `kinds` is empty."""
    kinds: tuple[SizeKind, ...] = ()
    """Kinds of size, of which each object has one, whatever its category; none for sizes that are spread evenly."""
    deviation: float = 0.1
    """Standard deviation of the log of the longer side within a kind."""
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
        if self.kinds:
            check_kinds(self.kinds)
        if not 0 <= self.deviation < math.inf:
            raise ValueError(f"deviation is {self.deviation}: need a finite number of at least 0")
        if not self.max_aspect >= 1:
            raise ValueError(f"max_aspect is {self.max_aspect}: need at least 1")


@dataclass(frozen=True)
class DetectionScene(Scene):
    """One picture and its truth."""

    category_ids: NDArray[np.int64]
    """(N,) keys of CATEGORIES."""
    visible: NDArray[np.float64]
    """(N,) visible share of the whole object."""


def render_detection_scene(
    rng: np.random.Generator, image_size: int = 160, scene: DetectionSceneConfig | None = None
) -> DetectionScene:
    """Draw one picture and its truth.

    Objects are placed from the front to the back, so that what is visible of one is known, and final, once it has its
    place. On the fine grid the visible parts are disjoint; a pixel's colour is the mean of what its grid points show.

    Args:
        rng: the only source of chance.
        image_size: side S in pixels, at least 32.
        scene: what the picture holds; None for the defaults.

    Returns:
        The scene; its fields give shapes and units.

    Raises:
        ValueError: `image_size` is too small.
    """
    scene = scene or DetectionSceneConfig()
    check_image_size(image_size)
    free = np.ones((image_size * FINE, image_size * FINE), dtype=bool)
    shapes: list[_Shape] = []
    placed: list[Placed] = []
    for _ in range(int(rng.integers(scene.min_objects, scene.max_objects + 1))):
        shape = _draw_object(rng, image_size, scene)
        found = find_place(shape.mask, free, rng, scene)
        if found is not None:
            free[fine(found.place.there)] &= ~found.seen
            shapes.append(shape)
            placed.append(found)

    canvas = background(rng, image_size)
    pixels = canvas.copy()
    for shape, item in zip(shapes, placed, strict=True):
        there, own = ((slice(None), *part) for part in (item.place.there, item.place.own))
        under = canvas[there]
        paint = surface(rng, shape.rim, under.mean((1, 2)))[own]
        pixels[there] += coarse(item.seen) * (paint - under)
    sizes = zip(shapes, placed, strict=True)
    return DetectionScene(
        **describe_placed(pixels, placed),
        category_ids=np.array([shape.category_id for shape in shapes], dtype=np.int64),
        visible=np.array([np.count_nonzero(item.seen) / shape.size for shape, item in sizes], dtype=np.float64),
    )


class _Shape(NamedTuple):
    """An object before it has a place, in a window of whole pixels around it."""

    category_id: int
    mask: Mask  # (h * FINE, w * FINE)
    size: int  # cells of the mask that are set
    rim: Floats  # (h, w), 1 on the outline, 0 elsewhere


_OUTLINES = {category_id: outline(name) for category_id, name in CATEGORIES.items()}


def _draw_object(rng: np.random.Generator, image_size: int, scene: DetectionSceneConfig) -> _Shape:
    """Draw a shape of random category, size, aspect and rotation, at a random phase to the pixel grid."""
    category_id = int(rng.choice(list(CATEGORIES)))
    longer = image_size * _draw_longer(rng, scene)
    turned = turn_outline(
        rng, _OUTLINES[category_id], longer, max_aspect=scene.max_aspect, max_rotation=scene.max_rotation
    )
    inset = 1 - 2 * max(0.8 * image_size / 160, 0.03 * longer) / longer
    mask, core = (turned.mask(scale) for scale in (1.0, inset))
    return _Shape(category_id, mask, int(np.count_nonzero(mask)), coarse(mask & ~core))


def _draw_longer(rng: np.random.Generator, scene: DetectionSceneConfig) -> float:
    """Draw the longer side of an object as a fraction of the picture's."""
    if not scene.kinds:
        return log_uniform(rng, scene.smallest, scene.largest)
    kind = scene.kinds[int(rng.choice(len(scene.kinds), p=[kind.share for kind in scene.kinds]))]
    return draw_longer(rng, kind, scene.deviation)


def _draw_annotated(
    rng: np.random.Generator, image_size: int, scene: DetectionSceneConfig
) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """Draw a picture, and its objects as COCO annotates them."""
    drawn = render_detection_scene(rng, image_size, scene)
    return drawn.image, drawn.annotate(drawn.category_ids.tolist())


SHAPES = SyntheticSet(
    kind="instances",
    description="synthetic shapes",
    categories=[{"id": key, "name": name, "supercategory": "shape"} for key, name in CATEGORIES.items()],
    scene=DetectionSceneConfig(),
    draw=_draw_annotated,
)
