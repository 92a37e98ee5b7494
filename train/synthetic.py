"""A small synthetic detection set in COCO format: shapes of very different sizes on textured backgrounds.

It is made for watching a detector learn within minutes on a CPU, so each property is one that real photographs have and
that matters to the regression of box size: sizes spread log-uniformly over more than a decade, width and height that
vary independently of each other and of the category, objects that hide one another, and objects cut by the border.
"""

import colorsys
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

# Gaps between the ids are deliberate: code that takes a category id for a class index fails on this set at once.
CATEGORIES: dict[int, str] = {3: "ellipse", 7: "rectangle", 8: "triangle", 20: "star"}

# Masks are drawn this many times finer than the picture: edges are antialiased, and boxes are exact to 1 / 4 pixel.
_FINE = 4
_PLACEMENT_TRIES = 20
_MIN_IMAGE_SIZE = 32
_MAX_IMAGES = 1_000_000

_Floats = NDArray[np.float32]


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
        if not 0 <= self.min_objects <= self.max_objects:
            raise ValueError(f"need 0 <= min_objects <= max_objects, not {self.min_objects} and {self.max_objects}")
        if not 0 < self.smallest <= self.largest <= 1:
            raise ValueError(f"need 0 < smallest <= largest <= 1 (image sides), not {self.smallest} and {self.largest}")
        if not self.max_aspect >= 1:
            raise ValueError(f"max_aspect is {self.max_aspect}: need at least 1")
        if not 0 < self.min_visible <= 1:
            raise ValueError(f"min_visible is {self.min_visible}: need a share in (0, 1]")
        if not 0 <= self.inside <= 1:
            raise ValueError(f"inside is {self.inside}: need a share in [0, 1]")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality is {self.jpeg_quality}: need 1 to 100")


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
    coverage: _Floats
    """(N, S, S) share of each pixel that shows the object; over N it sums to at most 1."""


class SyntheticPaths(NamedTuple):
    """Where write_synthetic_detection put its files."""

    train_images: Path
    train_annotations: Path
    val_images: Path
    val_annotations: Path


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
    if seed < 0:
        raise ValueError(f"seed is {seed}: need a non-negative integer")
    for name, count in (("train", train), ("val", val)):
        if not 0 <= count < _MAX_IMAGES:
            raise ValueError(f"{name} is {count}: need a count of pictures from 0 to {_MAX_IMAGES - 1}")
    _check_image_size(image_size)
    paths: list[Path] = []
    for split, (name, count) in enumerate((("train", train), ("val", val))):
        images = Path(root) / name
        annotations = Path(root) / "annotations" / f"instances_{name}.json"
        _write_split(images, annotations, split, count, image_size, seed, scene)
        paths += [images, annotations]
    return SyntheticPaths(*paths)


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
    _check_image_size(image_size)
    free = np.ones((image_size * _FINE, image_size * _FINE), dtype=bool)
    placed = []
    for _ in range(int(rng.integers(scene.min_objects, scene.max_objects + 1))):
        item = _place(_draw_object(rng, image_size, scene), free, rng, scene)
        if item is not None:
            placed.append(item)

    canvas = _background(rng, image_size)
    pixels = canvas.copy()
    coverage = np.zeros((len(placed), image_size, image_size), dtype=np.float32)
    for share, item in zip(coverage, placed, strict=True):
        shape, left, top = item.shape, item.left, item.top
        height, width = shape.rim.shape
        # The window's part inside the picture: its rows and columns in the picture, and in the window itself.
        rows = slice(max(0, top), min(image_size, top + height))
        columns = slice(max(0, left), min(image_size, left + width))
        own_rows = slice(rows.start - top, rows.stop - top)
        own_columns = slice(columns.start - left, columns.stop - left)
        under = canvas[:, rows, columns]
        paint = _surface(rng, shape.rim, under.mean((1, 2)))[:, own_rows, own_columns]
        share[rows, columns] = _coarse(item.seen)
        pixels[:, rows, columns] += share[rows, columns] * (paint - under)
    return Scene(
        image=np.ascontiguousarray((pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)),
        boxes=np.array([item.box for item in placed], dtype=np.float64).reshape(-1, 4),
        category_ids=np.array([item.shape.category_id for item in placed], dtype=np.int64),
        areas=np.array([np.count_nonzero(item.seen) / _FINE**2 for item in placed], dtype=np.float64),
        visible=np.array([np.count_nonzero(item.seen) / item.shape.size for item in placed], dtype=np.float64),
        coverage=coverage,
    )


class _Shape(NamedTuple):
    """An object before it has a place, in a window of whole pixels around it."""

    category_id: int
    mask: NDArray[np.bool_]  # (h * _FINE, w * _FINE)
    size: int  # cells of the mask that are set
    rim: _Floats  # (h, w), 1 on the outline, 0 elsewhere


class _Placed(NamedTuple):
    """A shape at its place; the window may lie partly outside the picture."""

    shape: _Shape
    left: int
    top: int
    seen: NDArray[np.bool_]  # the part of the window inside the picture, on the fine grid
    box: tuple[float, float, float, float]


def _outline(name: str) -> NDArray[np.float64]:
    """Corners (K, 2) of a shape that fills [-1, 1] x [-1, 1]."""
    if name == "rectangle":
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=np.float64)
    elif name == "triangle":
        corners = np.array([[0, -1], [1, 1], [-1, 1]], dtype=np.float64)
    else:
        points = 10 if name == "star" else 64
        angle = np.arange(points) * (2 * np.pi / points) - np.pi / 2
        radius = np.where(np.arange(points) % 2, 0.46, 1.0) if name == "star" else 1.0
        corners = np.stack([np.cos(angle) * radius, np.sin(angle) * radius], 1)
    low, high = corners.min(0), corners.max(0)
    return (corners - low) / (high - low) * 2 - 1


_OUTLINES = {category_id: _outline(name) for category_id, name in CATEGORIES.items()}


def _draw_object(rng: np.random.Generator, image_size: int, scene: SceneConfig) -> _Shape:
    """A shape of random category, size, aspect and rotation, at a random phase to the pixel grid."""
    category_id = int(rng.choice(list(CATEGORIES)))
    longer = image_size * math.exp(rng.uniform(math.log(scene.smallest), math.log(scene.largest)))
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
    mask, core = (_fill((corners * scale + middle) * _FINE, width * _FINE, height * _FINE) for scale in (1.0, inset))
    return _Shape(category_id, mask, int(np.count_nonzero(mask)), _coarse(mask & ~core))


def _fill(corners: NDArray[np.float64], width: int, height: int) -> NDArray[np.bool_]:
    """The polygon `corners` (K, 2), x then y, as a mask (height, width)."""
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).polygon([(x, y) for x, y in (corners - 0.5).tolist()], fill=1)
    return np.asarray(image).view(bool)


def _coarse(mask: NDArray[np.bool_]) -> _Floats:
    """Share of each pixel that is set in the fine mask: (h * _FINE, w * _FINE) to (h, w)."""
    height, width = mask.shape[0] // _FINE, mask.shape[1] // _FINE
    rows = mask.view(np.uint8).reshape(height, _FINE, width * _FINE).sum(1, dtype=np.uint8)
    return rows.reshape(height, width, _FINE).sum(2, dtype=np.uint8) * np.float32(1 / _FINE**2)


def _place(shape: _Shape, free: NDArray[np.bool_], rng: np.random.Generator, scene: SceneConfig) -> _Placed | None:
    """Find the shape a place where enough of it is seen, and take that place from `free`; None if there is none.

    Only the place is drawn again after a failure: drawing the object again would favour small ones.
    """
    image_size = len(free) // _FINE
    height, width = shape.rim.shape
    within = rng.random() < scene.inside and max(height, width) <= image_size
    for _ in range(_PLACEMENT_TRIES):
        if within:
            left, top = (int(rng.integers(0, image_size - side + 1)) for side in (width, height))
        else:
            left, top = (int(rng.integers(-(side // 2), image_size - side // 2)) for side in (width, height))
        x1, y1, x2, y2 = max(0, left), max(0, top), min(image_size, left + width), min(image_size, top + height)
        there = (slice(y1 * _FINE, y2 * _FINE), slice(x1 * _FINE, x2 * _FINE))
        part = (slice((y1 - top) * _FINE, (y2 - top) * _FINE), slice((x1 - left) * _FINE, (x2 - left) * _FINE))
        seen = shape.mask[part] & free[there]
        if np.count_nonzero(seen) >= scene.min_visible * shape.size:
            free[there] &= ~seen
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            box = (
                x1 + float(columns[0]) / _FINE,
                y1 + float(rows[0]) / _FINE,
                x1 + float(columns[-1] + 1) / _FINE,
                y1 + float(rows[-1] + 1) / _FINE,
            )
            return _Placed(shape, left, top, seen, box)
    return None


def _colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> _Floats:
    """A random RGB colour (3, 1, 1) in [0, 1]."""
    colour = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return np.array(colour, dtype=np.float32).reshape(3, 1, 1)


def _noise(rng: np.random.Generator, height: int, width: int, cells: int) -> _Floats:
    """Smooth noise (height, width) in about [0, 1], with `cells` bumps along the longer side."""
    step = max(height, width) / cells
    coarse = rng.random((math.ceil(height / step) + 1, math.ceil(width / step) + 1), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _pattern(rng: np.random.Generator, kind: str, height: int, width: int, period: float) -> _Floats:
    """A field (height, width) in about [0, 1]: what mixes a texture's two colours. `period` is in pixels."""
    if kind == "plain":
        return np.full((height, width), 0.15 * rng.random(), dtype=np.float32)
    if kind == "noise":
        longer = max(height, width)
        return (
            _noise(rng, height, width, max(1, round(longer / period)))
            + 0.5 * _noise(rng, height, width, max(2, round(2 * longer / period)))
            + 0.25 * _noise(rng, height, width, max(3, round(4 * longer / period)))
        ) / np.float32(1.75)
    angle, offset = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi, 2).astype(np.float32)
    wave, cos, sin = (np.float32(v) for v in (2 * np.pi / period, math.cos(angle), math.sin(angle)))
    x = np.arange(width, dtype=np.float32) * wave
    y = np.arange(height, dtype=np.float32)[:, None] * wave
    along = np.sin(x * cos + y * sin + offset[0])
    if kind == "stripes":
        return 0.5 + 0.5 * (2.5 * along).clip(-1, 1)
    across = np.sin(y * cos - x * sin + offset[1])
    if kind == "checks":
        return 0.5 + 0.5 * (5 * along * across).clip(-1, 1)
    return (2.5 * (along + across - 0.9)).clip(0, 1)  # dots


def _background(rng: np.random.Generator, size: int) -> _Floats:
    """A muted texture (3, size, size) in [0, 1]: large soft patches of two colours, a pattern in a third, and grain."""
    first, second = (_colour(rng, (0.05, 0.6), (0.2, 0.95)) for _ in range(2))
    third = _colour(rng, (0.05, 0.5), (0.2, 0.9))
    patches = 1.6 * _pattern(rng, "noise", size, size, size / rng.uniform(1.0, 3.0)) - 0.3
    ramp = np.linspace(0, 1, size, dtype=np.float32)
    slope = rng.uniform(-0.5, 0.5, 2).astype(np.float32)
    mix = (patches + slope[0] * (ramp - 0.5) + slope[1] * (ramp[:, None] - 0.5)).clip(0, 1)
    canvas = first + mix * (second - first)
    kind = str(rng.choice(["plain", "noise", "noise", "stripes", "checks", "dots"]))
    detail = _pattern(rng, kind, size, size, size / rng.uniform(4, 16)) * np.float32(rng.uniform(0.15, 0.55))
    canvas += detail * (third - canvas)
    grain = rng.uniform(0.01, 0.05) * (rng.random((size, size), dtype=np.float32) - 0.5)
    return canvas + grain


def _surface(rng: np.random.Generator, rim: _Floats, under: _Floats) -> _Floats:
    """An object's texture (3, h, w): its colour unlike `under` (3,), lit from the upper left, with a dark rim."""
    height, width = rim.shape
    choices = [_colour(rng, (0.35, 0.95), (0.35, 1.0)) for _ in range(3)]
    first = max(choices, key=lambda colour: float(np.abs(colour[:, 0, 0] - under).sum()))
    second = _colour(rng, (0.1, 0.9), (0.2, 1.0))
    kind = str(rng.choice(["plain", "noise", "stripes", "checks", "dots"]))
    mix = _pattern(rng, kind, height, width, max(4.0, max(height, width) * rng.uniform(0.14, 0.4)))
    across, down = (np.linspace(0.14, -0.14, side, dtype=np.float32) for side in (width, height))
    shade = (1 + across + down[:, None]) * (1 - 0.55 * rim)
    return (first + 0.8 * mix * (second - first)) * shade


def _check_image_size(image_size: int) -> None:
    if image_size < _MIN_IMAGE_SIZE:
        raise ValueError(f"image_size is {image_size}: need at least {_MIN_IMAGE_SIZE} pixels")


def _write_split(
    folder: Path, annotations: Path, split: int, count: int, image_size: int, seed: int, scene: SceneConfig
) -> None:
    """Write one split's pictures and then, in one step, its annotations."""
    folder.mkdir(parents=True, exist_ok=True)
    annotations.parent.mkdir(parents=True, exist_ok=True)
    annotations.unlink(missing_ok=True)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for i in range(count):
        drawn = render_scene(np.random.default_rng([seed, split, i]), image_size, scene)
        # Ids differ between the splits, so a picture cannot be taken for one of the other split unnoticed.
        image_id = split * _MAX_IMAGES + i + 1
        file_name = f"{image_id:012d}.jpg"
        Image.fromarray(drawn.image).save(folder / file_name, quality=scene.jpeg_quality)
        images.append({"id": image_id, "file_name": file_name, "width": image_size, "height": image_size})
        for box, category_id, area in zip(drawn.boxes.tolist(), drawn.category_ids.tolist(), drawn.areas, strict=True):
            x1, y1, x2, y2 = box
            objects.append(
                {
                    "id": len(objects) + 1,  # from 1: pycocotools takes 0 for "no match"
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(area),
                    "iscrowd": 0,
                }
            )
    content = {
        "info": {"description": "synthetic shapes", "seed": seed, "split": split, "scene": asdict(scene)},
        "licenses": [],
        "images": images,
        "annotations": objects,
        "categories": [{"id": key, "name": name, "supercategory": "shape"} for key, name in CATEGORIES.items()],
    }
    unfinished = annotations.with_name(annotations.name + ".partial")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    os.replace(unfinished, annotations)
