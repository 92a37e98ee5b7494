"""Images as they are given to a network: a file, a Pillow image, or an array, with one rule for sizes and colours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mdnkernels.train.config.options import Orientation
from mdnkernels.train.data.images import ImageError, exif_orientation, image_size, open_image, read_rgb, warp
from mdnkernels.train.data.transforms import Placement
from mdnkernels.train.errors import UnreadableImageError

ImageLike = str | PathLike[str] | Image.Image | NDArray[Any] | Tensor


@dataclass(frozen=True)
class GivenImage:
    """An image whose size is known, and whose pixels are read when they are needed.

    Reading raises UnreadableImageError.
    """

    name: str
    """What messages call it."""
    open: Callable[[], Image.Image]
    """Gives the image as `open_image` does, anew at each call: a decoder that shrinks a file shrinks it for good."""
    orientation: Orientation
    """How what `open` gives is to be taken."""
    size: tuple[int, int]
    """Width and height in that orientation."""
    turn: int = 1
    """The EXIF orientation that it was given with, 1 to 8; 1 is upright."""
    path: Path | None = None
    """The file that was named."""

    def read(self) -> Image.Image:
        """Return its RGB pixels as it is shown."""
        with _said_of(self.name), self.open() as image:
            return read_rgb(image, self.orientation)

    def warp(self, place: Placement) -> NDArray[np.uint8]:
        """Return what the network's input shows of it, (H, W, 3) in RGB."""
        with _said_of(self.name), self.open() as image:
            return warp(image, place.matrix, place.size, self.orientation)


def take_image(image: ImageLike, orientation: Orientation = "exif") -> GivenImage:
    """Return the image that is meant.

    image: the path of a file; a Pillow image of any mode; or an array or tensor, in RGB and in rows from the top:
    (H, W, 3), (H, W, 4) with an alpha that is left out, or grey (H, W) or (H, W, 1), of uint8, or of uint16 that counts
    to 65535, of which the upper eight bits are taken. orientation: whether EXIF turns a file or a Pillow image; an
    array has none.

    Raises UnreadableImageError for an image that cannot be read, TypeError for what is none and for an array of other
    numbers, and ValueError for an array of another shape; each says what to give.
    """
    if isinstance(image, str | PathLike):
        return _take_file(Path(image), orientation)
    if isinstance(image, Image.Image):
        name = str(getattr(image, "filename", "") or "the Pillow image")
        with _said_of(name):
            # A copy, as its owner may draw on it.
            pixels, turn = read_rgb(image, orientation).copy(), exif_orientation(image)
        return GivenImage(name, lambda: pixels, "stored", pixels.size, turn)
    if isinstance(image, Tensor):
        # NumPy has no bfloat16; no floating-point number is taken anyway.
        image = (image.float() if image.dtype == torch.bfloat16 else image).detach().cpu().numpy()
    if isinstance(image, np.ndarray):
        pixels = Image.fromarray(_rgb_of_array(image))
        return GivenImage("the array", lambda: pixels, "stored", pixels.size)
    raise TypeError(
        f"image: cannot be a {type(image).__name__}; give a path, a Pillow image, or an array or tensor (H, W, 3) of "
        "uint8 in RGB, or a list of them"
    )


def _take_file(path: Path, orientation: Orientation) -> GivenImage:
    with _said_of(str(path)), open_image(path) as image:
        turn, size = exif_orientation(image), image_size(image, orientation)
    return GivenImage(str(path), lambda: open_image(path), orientation, size, turn, path)


def _rgb_of_array(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an array's pixels as (H, W, 3) uint8."""
    if image.dtype not in (np.uint8, np.uint16):
        hint = "convert it: (255 * image).round().astype('uint8') where it holds 0 to 1"
        raise TypeError(
            f"image: an array of {image.dtype} cannot be taken; give the uint8 pixels, 0 to 255, as they were read: "
            f"they are normalised here; or {hint if image.dtype.kind == 'f' else 'convert it to uint8'}"
        )
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        why = ""
        if image.ndim == 3 and image.shape[0] in (1, 3, 4):
            why = "; this one has its channels first: give image.permute(1, 2, 0), or transpose(1, 2, 0)"
        elif image.ndim == 4:
            why = "; of a batch give a list of its images: list(images)"
        raise ValueError(
            f"image: an array must have the shape (H, W, 3), (H, W, 4), (H, W, 1) or (H, W), not "
            f"{tuple(image.shape)}{why}"
        )
    if image.dtype == np.uint16:
        image = image >> 8
    return np.ascontiguousarray(np.broadcast_to(image[..., :3], (*image.shape[:2], 3)), dtype=np.uint8)


@contextlib.contextmanager
def _said_of(name: str) -> Iterator[None]:
    """Make an ImageError, which says only why, one that names the image."""
    try:
        yield
    except ImageError as error:
        raise UnreadableImageError(name, str(error)) from error
