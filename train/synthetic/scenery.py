"""What synthetic pictures are made of: textures, outlines as masks on a fine grid, and windows at their place.

Masks are drawn `FINE` times finer than the picture: edges are antialiased, and boxes are exact to 1 / FINE pixel. On
the fine grid what is seen of several things is disjoint; a pixel's colour is the mean of what its grid points show.
"""

import colorsys
import math
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

FINE = 4
_PLACEMENT_TRIES = 20

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


class SceneLimits(Protocol):
    """What the dataclass that configures a kind of scene has. Lengths are fractions of the picture's side."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def min_objects(self) -> int: ...
    @property
    def max_objects(self) -> int: ...
    @property
    def smallest(self) -> float: ...
    @property
    def largest(self) -> float: ...
    @property
    def inside(self) -> float: ...
    @property
    def min_visible(self) -> float: ...
    @property
    def jpeg_quality(self) -> int: ...


def check_scene(scene: SceneLimits) -> None:
    """Raise ValueError, with the field's name, for what no kind of scene can have."""
    if not 0 <= scene.min_objects <= scene.max_objects:
        raise ValueError(f"need 0 <= min_objects <= max_objects, not {scene.min_objects} and {scene.max_objects}")
    if not 0 < scene.smallest <= scene.largest <= 1:
        raise ValueError(f"need 0 < smallest <= largest <= 1 (image sides), not {scene.smallest} and {scene.largest}")
    if not 0 < scene.min_visible <= 1:
        raise ValueError(f"min_visible is {scene.min_visible}: need a share in (0, 1]")
    check_share("inside", scene.inside)
    if not 1 <= scene.jpeg_quality <= 100:
        raise ValueError(f"jpeg_quality is {scene.jpeg_quality}: need 1 to 100")


def check_share(name: str, share: float) -> None:
    """Raise ValueError for a share outside [0, 1]."""
    if not 0 <= share <= 1:
        raise ValueError(f"{name} is {share}: need a share in [0, 1]")


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number in [low, high], each ratio as likely."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


class Place(NamedTuple):
    """A window of whole pixels at its place in the picture, of which a part may lie outside."""

    left: int
    top: int
    width: int
    height: int
    image_size: int

    @property
    def there(self) -> tuple[slice, slice]:
        """Rows and columns of the picture that the window covers."""
        return (
            slice(max(0, self.top), min(self.image_size, self.top + self.height)),
            slice(max(0, self.left), min(self.image_size, self.left + self.width)),
        )

    @property
    def own(self) -> tuple[slice, slice]:
        """Rows and columns of the window that lie in the picture."""
        rows, columns = self.there
        return (
            slice(rows.start - self.top, rows.stop - self.top),
            slice(columns.start - self.left, columns.stop - self.left),
        )


class Placed(NamedTuple):
    """An object's window at its place, and what is seen of the object there."""

    place: Place
    seen: Mask
    """The window's part inside the picture, on the fine grid."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x1 y1 x2 y2 in the picture's pixels, tight around what is seen."""
        y, x = (part.start for part in self.place.there)
        rows, columns = np.flatnonzero(self.seen.any(1)), np.flatnonzero(self.seen.any(0))
        return (
            x + float(columns[0]) / FINE,
            y + float(rows[0]) / FINE,
            x + float(columns[-1] + 1) / FINE,
            y + float(rows[-1] + 1) / FINE,
        )


def fine(part: tuple[slice, slice]) -> tuple[slice, slice]:
    """Return rows and columns of pixels as those of the fine grid."""
    rows, columns = part
    return slice(rows.start * FINE, rows.stop * FINE), slice(columns.start * FINE, columns.stop * FINE)


def find_place(mask: Mask, free: Mask, rng: np.random.Generator, scene: SceneLimits) -> Placed | None:
    """Return a place where enough of an object is seen, and what is seen of it there; None if none was found.

    mask: the object in its window, of whole pixels; free: the picture, where nothing stands in front; both on the fine
    grid. What is seen, `mask & free` in the window's part inside the picture, is not yet taken from `free`. Only the
    place is drawn again after a failure: drawing the object again would favour small ones.
    """
    image_size = len(free) // FINE
    height, width = (side // FINE for side in mask.shape)
    size = np.count_nonzero(mask)
    within = rng.random() < scene.inside and max(height, width) <= image_size
    for _ in range(_PLACEMENT_TRIES):
        if within:
            left, top = (int(rng.integers(0, image_size - side + 1)) for side in (width, height))
        else:
            left, top = (int(rng.integers(-(side // 2), image_size - side // 2)) for side in (width, height))
        place = Place(left, top, width, height, image_size)
        seen = mask[fine(place.own)] & free[fine(place.there)]
        if np.count_nonzero(seen) >= scene.min_visible * size:
            return Placed(place, seen)
    return None


def outline(name: str) -> NDArray[np.float64]:
    """Return the corners (K, 2) of a shape that fills [-1, 1] x [-1, 1]."""
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


class Turned(NamedTuple):
    """An outline, stretched and turned, in a window of whole pixels around it."""

    corners: NDArray[np.float64]
    """(K, 2) x, y in pixels from the middle of the outline's box."""
    middle: NDArray[np.float64]
    """(2,) where that lies in the window."""
    width: int
    height: int

    def mask(self, scale: float = 1.0) -> Mask:
        """Return the outline, `scale` times as large around its middle, filled, on the window's fine grid."""
        return fill((self.corners * scale + self.middle) * FINE, self.width * FINE, self.height * FINE)


def turn_outline(
    rng: np.random.Generator, corners: NDArray[np.float64], longer: float, *, max_aspect: float, max_rotation: float
) -> Turned:
    """Return an outline (K, 2), stretched and turned at random, at a random phase to the pixel grid.

    longer: longer side of its box then, in pixels. max_aspect: of width over height before the turn, log-uniform in
    [1 / max_aspect, max_aspect]. max_rotation: in degrees, either way.
    """
    stretch = math.exp(rng.uniform(-0.5, 0.5) * math.log(max_aspect))
    angle = math.radians(rng.uniform(-max_rotation, max_rotation))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    corners = (corners * [stretch, 1 / stretch]) @ turn
    extent = np.ptp(corners, axis=0)
    corners = (corners - corners.min(0) - extent / 2) * (longer / extent.max())
    phase = rng.random(2)
    width, height = np.ceil(extent * (longer / extent.max()) + phase).astype(int)
    return Turned(corners, phase + extent * (longer / extent.max()) / 2, int(width), int(height))


def fill(corners: NDArray[np.float64], width: int, height: int) -> Mask:
    """Return the polygon `corners` (K, 2), x then y, as a mask (height, width)."""
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).polygon([(x, y) for x, y in (corners - 0.5).tolist()], fill=1)
    return np.asarray(image).view(bool)


def coarse(mask: Mask) -> Floats:
    """Return the share of each pixel that is set in the fine mask: (h * FINE, w * FINE) to (h, w)."""
    height, width = mask.shape[0] // FINE, mask.shape[1] // FINE
    rows = mask.view(np.uint8).reshape(height, FINE, width * FINE).sum(1, dtype=np.uint8)
    return rows.reshape(height, width, FINE).sum(2, dtype=np.uint8) * np.float32(1 / FINE**2)


def colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Floats:
    """Draw a random RGB colour (3, 1, 1) in [0, 1]."""
    colour = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return np.array(colour, dtype=np.float32).reshape(3, 1, 1)


def noise(rng: np.random.Generator, height: int, width: int, cells: int) -> Floats:
    """Draw smooth noise (height, width) in about [0, 1], with `cells` bumps along the longer side."""
    step = max(height, width) / cells
    coarse = rng.random((math.ceil(height / step) + 1, math.ceil(width / step) + 1), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def pattern(rng: np.random.Generator, kind: str, height: int, width: int, period: float) -> Floats:
    """Draw a field (height, width) in about [0, 1]: what mixes a texture's two colours. `period` is in pixels."""
    if kind == "plain":
        return np.full((height, width), 0.15 * rng.random(), dtype=np.float32)
    if kind == "noise":
        longer = max(height, width)
        return (
            noise(rng, height, width, max(1, round(longer / period)))
            + 0.5 * noise(rng, height, width, max(2, round(2 * longer / period)))
            + 0.25 * noise(rng, height, width, max(3, round(4 * longer / period)))
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


def background(rng: np.random.Generator, size: int) -> Floats:
    """Draw a muted texture (3, size, size) in [0, 1]: soft patches of two colours, a pattern in a third, grain."""
    first, second = (colour(rng, (0.05, 0.6), (0.2, 0.95)) for _ in range(2))
    third = colour(rng, (0.05, 0.5), (0.2, 0.9))
    patches = 1.6 * pattern(rng, "noise", size, size, size / rng.uniform(1.0, 3.0)) - 0.3
    ramp = np.linspace(0, 1, size, dtype=np.float32)
    slope = rng.uniform(-0.5, 0.5, 2).astype(np.float32)
    mix = (patches + slope[0] * (ramp - 0.5) + slope[1] * (ramp[:, None] - 0.5)).clip(0, 1)
    canvas = first + mix * (second - first)
    kind = str(rng.choice(["plain", "noise", "noise", "stripes", "checks", "dots"]))
    detail = pattern(rng, kind, size, size, size / rng.uniform(4, 16)) * np.float32(rng.uniform(0.15, 0.55))
    canvas += detail * (third - canvas)
    grain = rng.uniform(0.01, 0.05) * (rng.random((size, size), dtype=np.float32) - 0.5)
    return canvas + grain


def surface(rng: np.random.Generator, rim: Floats, under: Floats) -> Floats:
    """Draw an object's texture (3, h, w): its colour unlike `under` (3,), lit from the upper left, with a dark rim."""
    height, width = rim.shape
    choices = [colour(rng, (0.35, 0.95), (0.35, 1.0)) for _ in range(3)]
    first = max(choices, key=lambda colour: float(np.abs(colour[:, 0, 0] - under).sum()))
    second = colour(rng, (0.1, 0.9), (0.2, 1.0))
    kind = str(rng.choice(["plain", "noise", "stripes", "checks", "dots"]))
    mix = pattern(rng, kind, height, width, max(4.0, max(height, width) * rng.uniform(0.14, 0.4)))
    across, down = (np.linspace(0.14, -0.14, side, dtype=np.float32) for side in (width, height))
    shade = (1 + across + down[:, None]) * (1 - 0.55 * rim)
    return (first + 0.8 * mix * (second - first)) * shade
