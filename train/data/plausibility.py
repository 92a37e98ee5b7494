"""What in a list of boxes can hardly be meant: counted by kinds, with examples, and how to mend a file that has it."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mdnkernels.train.data.coco import CocoAnnotations

EXAMPLES = 5
# Rounding may put a box so many pixels beyond its image.
ROUNDING = 1.0
# An `area` of at most 1 is no segment's beside a box of so many square pixels.
LARGE_BOX = 100.0
# The shares of a file's boxes that must fit a reading, and that must not fit x, y, width, height, for a habit.
MOST, SOME = 0.9, 0.01

EACH = 'for one in root["annotations"]: '
SIZES = 'size = {one["id"]: (one["width"], one["height"]) for one in root["images"]}'
FILE = 'posixpath.normpath(one["file_name"])'
AREA = 'one["area"] = one["bbox"][2] * one["bbox"][3]'
AS_GIVEN, CORNERS, CENTRE = "x, y, width, height", "corners x1, y1, x2, y2", "centre x, centre y, width, height"
EXCHANGED = "images whose width and height have changed places"
# What four numbers x, y, w, h may mean, and what the box then is.
READINGS = {
    AS_GIVEN: ("x", "y", "w", "h"),
    CORNERS: ("x", "y", "w - x", "h - y"),
    CENTRE: ("x - w / 2", "y - h / 2", "w", "h"),
    EXCHANGED: ("x", "y", "w", "h"),
}
# What a file looks like, and the lines that mend it.
_Habit = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class Doubt:
    """One kind of entries that can hardly be meant as they stand."""

    kind: str
    """A word for check.json: outside, fractions, corners, file_twice, box_twice or area."""
    count: int
    text: str
    """What they are, with their number."""
    examples: tuple[str, ...]
    """The first of them."""
    looks_like: str | None = None
    """What the file as a whole seems to mean by it."""
    mend: tuple[str, ...] = ()
    """Lines of Python that change `root`, the content of the file."""


def find_doubts(annotations: CocoAnnotations, sizes: np.ndarray) -> list[Doubt]:
    """Return a doubt for each kind that the list has, none for a list as it should be.

    sizes: (I, 2) width and height of the images, 0 where nobody knows them.
    """
    found = [
        *doubtful_boxes(annotations, sizes),
        _files_twice(annotations),
        _boxes_twice(annotations),
        _areas(annotations),
    ]
    return [doubt for doubt in found if doubt is not None]


class _Boxes(NamedTuple):
    """The boxes whose images have a known size."""

    given: np.ndarray
    """(N, 4) float64, the numbers of the file."""
    size: np.ndarray
    """(N, 2): width and height of their images."""
    areas: np.ndarray
    """(N,)."""

    def areas_follow(self) -> bool:
        """Tell whether the areas are no more than the third number times the fourth."""
        product = self.given[:, 2] * self.given[:, 3]
        return bool(np.isclose(self.areas, product, rtol=0.02, atol=1e-9).mean() >= 0.9)


def doubtful_boxes(annotations: CocoAnnotations, sizes: np.ndarray) -> list[Doubt]:
    """Return the doubts of the boxes' numbers alone: beyond their images, fractions, or corners by their areas.

    sizes: as in `find_doubts`.
    """
    images = annotations.rows()
    rows = np.flatnonzero((sizes[images] > 0).all(1))
    if not len(rows):
        return []
    corners, size = annotations.boxes[rows], sizes[images[rows]]
    given = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
    boxes = _Boxes(given, size, annotations.areas[rows])

    def doubt(kind: str, chosen: np.ndarray, text: str, habit: _Habit | None) -> Doubt:
        examples = tuple(
            f"{annotations.place(rows[i])} in image {annotations.image_ids[images[rows[i]]]} "
            f"of {size[i, 0]} x {size[i, 1]}"
            for i in np.flatnonzero(chosen)[:EXAMPLES]
        )
        text = f"{_count(chosen, 'box', 'boxes')} {text}"
        return Doubt(kind, int(chosen.sum()), text, examples, *(habit or ()))

    doubts = []
    fractions = (np.abs(given) <= 1).all(1) & (size > 2).all(1)
    all_fractions = bool(fractions.mean() >= MOST)
    if fractions.any():
        habit = _fractions_mean(boxes) if all_fractions else None
        doubts.append(doubt("fractions", fractions, "with no number above 1, in an image of more pixels", habit))
    wholly = (corners[:, 2:] <= 0).any(1) | (corners[:, :2] >= size).any(1)
    outside = wholly | ~_inside(corners, size, ROUNDING)
    habit = None if all_fractions else _other_reading(boxes)
    if outside.any():
        text = f"more than a pixel beyond the image, of which {int(wholly.sum())} wholly outside"
        doubts.append(doubt("outside", outside, text, habit))
    elif habit is not None:
        text = "whose area is that between corners, not width times height"
        doubts.append(doubt("corners", np.ones(len(rows), bool), text, habit))
    return doubts


def _inside(corners: np.ndarray, size: np.ndarray, slack: float | np.ndarray) -> np.ndarray:
    """Return which boxes x1, y1, x2, y2 reach at most so far beyond their images, (N,) bool."""
    return np.all(corners[:, :2] >= -slack, axis=1) & np.all(corners[:, 2:] <= size + slack, axis=1)


def _corners(given: np.ndarray, reading: str) -> np.ndarray:
    """Return boxes as they stand in the file as x1, y1, x2, y2, (N, 4), by one of READINGS."""
    first, second = given[:, :2], given[:, 2:]
    if reading in (AS_GIVEN, EXCHANGED):
        return np.concatenate((first, first + second), axis=1)
    if reading == CORNERS:
        return given
    return np.concatenate((first - second / 2, first + second / 2), axis=1)


def _best_readings(given: np.ndarray, size: np.ndarray, slack: float) -> list[str]:
    """Return the readings by which most boxes, at least MOST of them, have a positive size inside their images.

    Of several, they stand in the order of READINGS.
    """
    shares = {}
    for reading in READINGS:
        corners = _corners(given, reading)
        limit = size[:, ::-1] if reading == EXCHANGED else size
        shares[reading] = float((_inside(corners, limit, slack) & (corners[:, 2:] > corners[:, :2]).all(1)).mean())
    best = max(shares.values())
    return [reading for reading, share in shares.items() if share == best >= MOST]


def _fractions_mean(boxes: _Boxes) -> _Habit:
    # Boxes near the border fit one reading alone; where several are left, the one that the format asks for.
    fitting = _best_readings(boxes.given, np.ones_like(boxes.size), 0.01) or [AS_GIVEN]
    fitting = [reading for reading in fitting if reading != EXCHANGED]
    values = (value if len(value) == 1 else f"({value})" for value in READINGS[fitting[0]])
    numbers = (f"{value} * {side}" for value, side in zip(values, "WHWH", strict=True))
    box = f'(W, H), (x, y, w, h) = size[one["image_id"]], one["bbox"]; one["bbox"] = [{", ".join(numbers)}]'
    area = f"; {AREA}" if boxes.areas_follow() else ""
    return f"fractions of the image in place of pixels: {' or '.join(fitting)}", (SIZES, f"{EACH}{box}{area}")


def _other_reading(boxes: _Boxes) -> _Habit | None:
    """Return what the file as a whole seems to mean by its boxes; None where they are as they should be.

    A reading must fit more boxes than x, y, width, height, which fails by far for some, or be that of the areas.
    """
    given, size, areas = boxes
    as_given = _corners(given, AS_GIVEN)
    far = ~_inside(as_given, size, np.maximum(ROUNDING, 0.02 * size))
    fitting = _best_readings(given, size, ROUNDING)
    between = (given[:, 2:] - given[:, :2]).prod(1)
    if np.isclose(areas, between, rtol=0.02).mean() >= MOST and not boxes.areas_follow():
        fitting = [CORNERS]
    elif far.mean() < SOME or AS_GIVEN in fitting:
        return None
    if EXCHANGED in fitting:
        return EXCHANGED, ('for one in root["images"]: one["width"], one["height"] = one["height"], one["width"]',)
    if fitting:
        box = f'x, y, w, h = one["bbox"]; one["bbox"] = [{", ".join(READINGS[fitting[0]])}]'
        area = f"; {AREA}" if boxes.areas_follow() else ""
        return f"{' or '.join(fitting)} in place of {AS_GIVEN}", (f"{EACH}{box}{area}",)
    # Boxes of objects that the image cuts off reach beyond its left and upper border too, where there are enough.
    if len(given) >= 10 and far.mean() >= 0.25 and (given[:, :2] < -ROUNDING).any(1).mean() < SOME:
        reach = float(np.quantile((as_given[:, 2:] / size).max(1), 0.99))
        return f"boxes of larger pictures, which were shrunk later: they reach {reach:.3g} times as far", ()
    return None


def _files_twice(annotations: CocoAnnotations) -> Doubt | None:
    ids = defaultdict(list)
    for name, identity in zip(annotations.file_names, annotations.image_ids, strict=True):
        ids[posixpath.normpath(bytes(name).decode())].append(int(identity))
    twice = {name: of for name, of in ids.items() if len(of) > 1}
    if not twice:
        return None
    return Doubt(
        "file_twice",
        len(twice),
        f"{len(twice)} {'files' if len(twice) > 1 else 'file'} under several ids: "
        "what is labelled under one of them is background under the others",
        tuple(f"{name}: images {_some(of)}" for name, of in list(twice.items())[:EXAMPLES]),
        "an entry of its own in images for each annotation"
        if len(annotations.boxes) >= len(annotations) > 1 and (np.diff(annotations.starts) == 1).all()
        else None,
        (
            "import posixpath",
            "first = {}",
            f'same = {{one["id"]: first.setdefault({FILE}, one["id"]) for one in root["images"]}}',
            'root["images"] = [one for one in root["images"] if same[one["id"]] == one["id"]]',
            EACH + 'one["image_id"] = same[one["image_id"]]',
        ),
    )


def _boxes_twice(annotations: CocoAnnotations) -> Doubt | None:
    """Return the doubt of boxes that stand again, to two decimals as in COCO, in the same image and category."""
    images = annotations.rows()
    key = np.column_stack((images, annotations.labels, annotations.crowd, np.round(annotations.boxes, 2)))
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    first_of = first[inverse.ravel()]
    copies = np.flatnonzero(first_of != np.arange(len(key)))
    if not len(copies):
        return None
    return Doubt(
        "box_twice",
        len(copies),
        f"{len(copies)} {'boxes stand' if len(copies) > 1 else 'box stands'} again in the same image and category",
        tuple(
            f"{annotations.place(row)} of image {annotations.image_ids[images[row]]}, "
            f"as annotations[{annotations.positions[first_of[row]]}]"
            for row in copies[:EXAMPLES]
        ),
        "a list that holds everything twice" if len(copies) >= 0.45 * len(key) else None,
        (
            'key = lambda one: (one["image_id"], one["category_id"], one.get("iscrowd", 0), '
            '*(round(number, 2) for number in one["bbox"]))',
            "first = {}",
            f"{EACH}first.setdefault(key(one), one)",
            'root["annotations"] = list(first.values())',
        ),
    )


def _areas(annotations: CocoAnnotations) -> Doubt | None:
    sides = annotations.boxes[:, 2:] - annotations.boxes[:, :2]
    small = (annotations.areas <= 1) & (sides.prod(1) >= LARGE_BOX)
    if not small.any():
        return None
    return Doubt(
        "area",
        int(small.sum()),
        f"{_count(small, 'area', 'areas')} of at most 1 beside a box of {LARGE_BOX:g} square pixels or more: "
        "COCO's small, medium and large, and the similarity of poses, go by it",
        tuple(
            f"annotations[{annotations.positions[row]}].area: {annotations.areas[row]:g} beside {sides[row, 0]:g} x "
            f"{sides[row, 1]:g}"
            for row in np.flatnonzero(small)[:EXAMPLES]
        ),
        "areas that are not filled in" if small.mean() >= 0.5 else None,
        (EACH + 'one.get("area", 2) > 1 or one.update(area=one["bbox"][2] * one["bbox"][3])',),
    )


def _count(chosen: np.ndarray, one: str, many: str) -> str:
    count = int(chosen.sum())
    return f"{count} {one if count == 1 else many}"


def _some(ids: Iterable[int]) -> str:
    listed = list(ids)
    return ", ".join(map(str, listed[:EXAMPLES])) + (", ..." if len(listed) > EXAMPLES else "")
