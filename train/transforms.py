"""Where the network's input lies in an image, and where boxes go in it.

Coordinates are continuous: pixel i covers [i, i + 1), its centre is i + 0.5, and a box's edges are coordinates like any
other. Pillow's resampling, COCO's boxes and a box decoded from an output cell all agree with that. A transform is a
(2, 3) float64 matrix from input to image coordinates, which is the direction that resampling needs and that undoes a
detection; boxes go into the input by its inverse.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from train.config import AugmentConfig

# Orders in which brightness (0), contrast (1) and saturation (2) can be applied.
COLOUR_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
# The sample's colour parameters when nothing is changed: three factors, the order, three lighting coefficients.
IDENTITY_COLOUR = np.array([1, 1, 1, 0, 0, 0, 0], dtype=np.float32)


class Augmentation(NamedTuple):
    """What was drawn for one sample."""

    matrix: np.ndarray
    """(2, 3) float64, from input to image coordinates."""
    colour: np.ndarray
    """(7,) float32: brightness, contrast and saturation factors, index into COLOUR_ORDERS, lighting coefficients."""


def window(centre: tuple[float, float], pixels: float, size: tuple[int, int], flip: bool = False) -> np.ndarray:
    """The (2, 3) matrix of an axis-aligned window.

    centre: x, y in the image that the input's centre shows. pixels: image pixels per input pixel. size: height and
    width of the input. flip: mirror the window left to right.
    """
    height, width = size
    across = -pixels if flip else pixels
    return np.array(
        [[across, 0.0, centre[0] - across * width / 2], [0.0, pixels, centre[1] - pixels * height / 2]],
        dtype=np.float64,
    )


def fit_window(image_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """The (2, 3) matrix of evaluation: the whole image (width, height), centred, as large as the input lets it be."""
    width, height = image_size
    return window((width / 2, height / 2), max(width / size[1], height / size[0]), size)


def draw_augmentation(
    rng: np.random.Generator, image_size: tuple[int, int], size: tuple[int, int], config: AugmentConfig
) -> Augmentation:
    """CenterNet's random window, flip and colour for one image (width, height) and an input of (height, width)."""
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
    return Augmentation(window(centre, scale, size, flip), colour)


def _border(border: int, side: int) -> int:
    """CenterNet's: halved until the centre can move on both sides of the image's middle, 0 for the smallest images."""
    divisor = 1
    while border // divisor > 0 and side - border // divisor <= border // divisor:
        divisor *= 2
    return border // divisor


def move_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(A, 4) boxes x1, y1, x2, y2 through a (2, 3) matrix: the axis-aligned boxes around what they become."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 @ matrix[:, :2].T + matrix[:, 2]
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 @ np.abs(matrix[:, :2]).T
    return np.concatenate((centre - half, centre + half), axis=1)


def invert(matrix: np.ndarray) -> np.ndarray:
    """The (2, 3) matrix of the opposite direction."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.concatenate((linear, -linear @ matrix[:, 2:]), axis=1)


def clip_boxes(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """(A, 4) boxes cut off at the borders of a width x height picture; nothing may remain of one that lies outside."""
    return np.clip(boxes, 0, np.array([width, height, width, height], dtype=boxes.dtype))
