"""Where the network's input lies in an image, and where boxes go in it.

Coordinates are continuous: pixel i covers [i, i + 1), its centre is i + 0.5, and a box's edges are coordinates like any
other. Pillow's resampling, COCO's boxes and a box decoded from an output cell all agree with that. A transform is a
(2, 3) float64 matrix from input to image coordinates, which is the direction that resampling needs and that undoes a
detection; boxes go into the input by its inverse.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # which needs libraries of the command line
    from mdnkernels.train.config.options import AugmentConfig, Resolution

# Orders in which brightness (0), contrast (1) and saturation (2) can be applied.
COLOUR_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
# The sample's colour parameters when nothing is changed: three factors, the order, three lighting coefficients.
IDENTITY_COLOUR = np.array([1, 1, 1, 0, 0, 0, 0], dtype=np.float32)


class Placement(NamedTuple):
    """How the network's input shows an image."""

    matrix: np.ndarray
    """(2, 3) float64, from input to image coordinates."""
    size: tuple[int, int]
    """Height and width of the input."""
    colour: np.ndarray = IDENTITY_COLOUR
    """(7,) float32: brightness, contrast and saturation factors, index into COLOUR_ORDERS, lighting coefficients."""


def window(
    centre: tuple[float, float], pixels: float, size: tuple[int, int], flip: bool = False, degrees: float = 0.0
) -> np.ndarray:
    """Return the (2, 3) matrix of a window on the image.

    centre: x, y in the image that the input's centre shows. pixels: image pixels per input pixel. size: height and
    width of the input. flip: mirror the window left to right. degrees: turn the window in the image by so much, from x
    towards y.
    """
    height, width = size
    cos, sin = (pixels * value for value in (math.cos(math.radians(degrees)), math.sin(math.radians(degrees))))
    linear = np.array([[-cos if flip else cos, -sin], [-sin if flip else sin, cos]], dtype=np.float64)
    shift = np.array(centre) - linear @ (width / 2, height / 2)
    return np.concatenate((linear, shift[:, None]), axis=1)


def fit_image(image_size: tuple[int, int], size: tuple[int, int]) -> Placement:
    """Place the whole image (width, height) in the input (height, width), centred and as large as it goes."""
    width, height = image_size
    return Placement(window((width / 2, height / 2), max(width / size[1], height / size[0]), size), size)


class Views(NamedTuple):
    """At which sizes evaluation shows an image to the network.

    resolution: "fixed" fits each image into a square input of side input_size, "original" keeps its own size. scales:
    factors on that, one view each. divisor: the input's sides are multiples of it: a fixed side is rounded to the
    nearest, an original image is padded with black on all sides.
    """

    input_size: int
    divisor: int
    resolution: Resolution = "fixed"
    scales: tuple[float, ...] = (1.0,)

    def of(self, image_size: tuple[int, int]) -> list[Placement]:
        """Return one placement for each scale of an image (width, height)."""
        place = self._fixed if self.resolution == "fixed" else self._original
        return [place(image_size, scale) for scale in self.scales]

    def _fixed(self, image_size: tuple[int, int], scale: float) -> Placement:
        side = max(1, round(self.input_size * scale / self.divisor)) * self.divisor
        return fit_image(image_size, (side, side))

    def _original(self, image_size: tuple[int, int], scale: float) -> Placement:
        width, height = (max(1, math.ceil(side * scale / self.divisor)) * self.divisor for side in image_size)
        centre = (image_size[0] / 2, image_size[1] / 2)
        return Placement(window(centre, 1 / scale, (height, width)), (height, width))


def draw_augmentation(
    rng: np.random.Generator, image_size: tuple[int, int], size: tuple[int, int], config: AugmentConfig
) -> Placement:
    """Draw CenterNet's window, flip, rotation and colour for an image (width, height) and input (height, width)."""
    width, height = image_size
    scale = max(width / size[1], height / size[0]) * rng.choice(config.crop_scales)
    left, top = _border(config.crop_border, width), _border(config.crop_border, height)
    centre = (rng.uniform(left, width - left), rng.uniform(top, height - top))
    flip = bool(rng.random() < config.flip)
    colour = np.concatenate(
        (
            1 + rng.uniform(-config.colour, config.colour, 3),
            [rng.integers(len(COLOUR_ORDERS))],
            rng.normal(scale=config.lighting, size=3) if config.lighting > 0 else np.zeros(3),
        )
    ).astype(np.float32)
    degrees = 0.0
    if rng.random() < config.rotate:
        degrees = config.rotate_degrees * float(np.clip(rng.normal(), -2, 2))
    return Placement(window(centre, scale, size, flip, degrees), size, colour)


def _border(border: int, side: int) -> int:
    """Halve the border until the centre can move on both sides of the image's middle; 0 for the smallest images."""
    divisor = 1
    while border // divisor > 0 and side - border // divisor <= border // divisor:
        divisor *= 2
    return border // divisor


def move_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Move (A, 4) boxes x1, y1, x2, y2 by a (2, 3) matrix: the axis-aligned boxes around what they become."""
    centre = move_points((boxes[:, :2] + boxes[:, 2:]) / 2, matrix)
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 @ np.abs(matrix[:, :2]).T
    return np.concatenate((centre - half, centre + half), axis=1)


def move_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Move (..., 2) points by a (2, 3) matrix."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def mirrors(matrix: np.ndarray) -> bool:
    """Tell whether a (2, 3) matrix makes left of right."""
    return bool(np.linalg.det(matrix[:, :2]) < 0)


def invert(matrix: np.ndarray) -> np.ndarray:
    """Return the (2, 3) matrix of the opposite direction."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.concatenate((linear, -linear @ matrix[:, 2:]), axis=1)


def clip_boxes(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """Cut (A, 4) boxes off at the borders of a width x height picture; of one outside nothing may remain."""
    return np.clip(boxes, 0, np.array([width, height, width, height], dtype=boxes.dtype))
