"""A small synthetic detection set in COCO format: plain shapes whose colour is their category, and it their size.

It is made for watching how well sizes are regressed where some of them are rare. Each category is a kind of size, so
that a rare size counts as much in COCO's AP as a common one, as a rare category does. All else is easy: objects stand
out from a grey background, hide next to nothing of one another, and show their colour however small they are, so that
what is lost of AP is lost by their sizes.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdnkernels.train.synthetic.detection import SizeKind, check_kinds, draw_longer, rare_sizes
from mdnkernels.train.synthetic.scenery import (
    FINE,
    Floats,
    Placed,
    check_scene,
    coarse,
    find_place,
    fine,
    noise,
    outline,
    turn_outline,
)
from mdnkernels.train.synthetic.sets import Scene, SyntheticSet, check_image_size, describe_placed

# Gaps between the ids are deliberate: code that takes a category id for a class index fails on this set at once.
CATEGORIES: dict[int, str] = {2: "red", 5: "green", 9: "blue"}
"""The category of each kind of size, in the order of `ColouredSceneConfig.kinds`."""

_HUES = {2: 0.0, 5: 1 / 3, 9: 2 / 3}
_HUE_WIDTH = 0.08  # a category's hues are a quarter of what lies between two of them
_OUTLINES = tuple(outline(name) for name in ("ellipse", "rectangle"))


@dataclass(frozen=True)
class ColouredSceneConfig:
    """What a picture holds. Lengths are fractions of the picture's side, so that every size looks alike."""

    min_objects: int = 2
    max_objects: int = 8
    """Objects tried in a picture, uniform between the two; one that finds no visible place is left out."""
    kinds: tuple[SizeKind, ...] = rare_sizes(1.0)
    """The kind of size of each category."""
    deviation: float = 0.05
    """Standard deviation of the log of the longer side within a kind."""
    max_aspect: float = 1.2
    """Width over height before rotation, log-uniform in [1 / max_aspect, max_aspect]."""
    max_rotation: float = 10.0
    """Degrees either way."""
    inside: float = 0.9
    """Share of the objects placed wholly inside the picture; the others have their centre anywhere in it."""
    min_visible: float = 0.9
    """An object's visible area over its whole area, the part outside the picture included, is at least this."""
    jpeg_quality: int = 92

    @property
    def smallest(self) -> float:
        """Median of the longer side of the smallest kind."""
        return min(kind.longer for kind in self.kinds)

    @property
    def largest(self) -> float:
        """Median of the longer side of the largest kind."""
        return max(kind.longer for kind in self.kinds)

    def __post_init__(self) -> None:
        check_kinds(self.kinds)
        check_scene(self)
        if len(self.kinds) != len(CATEGORIES):
            raise ValueError(f"kinds are {len(self.kinds)}: need one for each of the {len(CATEGORIES)} categories")
        if not 0 <= self.deviation < math.inf:
            raise ValueError(f"deviation is {self.deviation}: need a finite number of at least 0")
        if not self.max_aspect >= 1:
            raise ValueError(f"max_aspect is {self.max_aspect}: need at least 1")


@dataclass(frozen=True)
class ColouredScene(Scene):
    """One picture and its truth."""

    category_ids: NDArray[np.int64]
    """(N,) keys of CATEGORIES."""


def render_coloured_scene(
    rng: np.random.Generator, image_size: int = 128, scene: ColouredSceneConfig | None = None
) -> ColouredScene:
    """Draw one picture and its truth.

    The largest objects get their places first, and stand in front: the last ones would find none.

    Args:
        rng: the only source of chance.
        image_size: side S in pixels, at least 32.
        scene: what the picture holds; None for the defaults.

    Returns:
        The scene; its fields give shapes and units.

    Raises:
        ValueError: `image_size` is too small.
    """
    scene = scene or ColouredSceneConfig()
    check_image_size(image_size)
    free = np.ones((image_size * FINE, image_size * FINE), dtype=bool)
    placed: list[Placed] = []
    category_ids: list[int] = []
    for longer, category_id in sorted(_draw_sizes(rng, scene), reverse=True):
        corners = _OUTLINES[int(rng.integers(len(_OUTLINES)))]
        turned = turn_outline(
            rng, corners, image_size * longer, max_aspect=scene.max_aspect, max_rotation=scene.max_rotation
        )
        found = find_place(turned.mask(), free, rng, scene)
        if found is not None:
            free[fine(found.place.there)] &= ~found.seen
            placed.append(found)
            category_ids.append(category_id)
    pixels = _grey_background(rng, image_size)
    for item, category_id in zip(placed, category_ids, strict=True):
        there = (slice(None), *item.place.there)
        pixels[there] += coarse(item.seen) * (_draw_paint(rng, category_id) - pixels[there])
    return ColouredScene(**describe_placed(pixels, placed), category_ids=np.array(category_ids, dtype=np.int64))


def _draw_sizes(rng: np.random.Generator, scene: ColouredSceneConfig) -> list[tuple[float, int]]:
    """Draw the longer side, as a fraction of the picture's, and the category of each object that is tried."""
    count = int(rng.integers(scene.min_objects, scene.max_objects + 1))
    drawn = rng.choice(len(scene.kinds), count, p=[kind.share for kind in scene.kinds])
    ids = list(CATEGORIES)
    return [(draw_longer(rng, scene.kinds[number], scene.deviation), ids[number]) for number in drawn.tolist()]


def _grey_background(rng: np.random.Generator, size: int) -> Floats:
    """Draw soft grey patches (3, size, size) in [0, 1], with grain of all colours."""
    grey = np.float32(rng.uniform(0.3, 0.7)) + np.float32(0.3) * (noise(rng, size, size, 6) - np.float32(0.5))
    return grey + np.float32(0.05) * (rng.random((3, size, size), dtype=np.float32) - np.float32(0.5))


def _draw_paint(rng: np.random.Generator, category_id: int) -> Floats:
    """Draw an object's colour (3, 1, 1) in [0, 1]: one of its category's."""
    hue = (_HUES[category_id] + _HUE_WIDTH * (rng.random() - 0.5)) % 1
    paint = colorsys.hsv_to_rgb(hue, rng.uniform(0.6, 1.0), rng.uniform(0.6, 1.0))
    return np.array(paint, dtype=np.float32).reshape(3, 1, 1)


def _draw_annotated(
    rng: np.random.Generator, image_size: int, scene: ColouredSceneConfig
) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """Draw a picture, and its objects as COCO annotates them."""
    drawn = render_coloured_scene(rng, image_size, scene)
    return drawn.image, drawn.annotate(drawn.category_ids.tolist())


COLOURED = SyntheticSet(
    kind="instances",
    description="coloured shapes",
    categories=[{"id": key, "name": name, "supercategory": "shape"} for key, name in CATEGORIES.items()],
    scene=ColouredSceneConfig(),
    draw=_draw_annotated,
)
