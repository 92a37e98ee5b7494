"""Image files to network inputs: decoding and resampling, with one error for whatever is broken in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, JpegImagePlugin

from mdnkernels import native


class ImageError(Exception):
    """An image file is missing or cannot be decoded; the message says why, without the file's name."""


def open_image(path: Path) -> Image.Image:
    """Reads the header alone, so that `size` is known; the pixels are decoded later. Raises ImageError."""
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise ImageError("there is no such file") from None
    except Exception as error:  # a broken file makes Pillow's many readers raise almost anything
        raise _unreadable(error) from error


def warp(image: Image.Image, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The input of size (H, W) that shows `image` through `matrix`: (H, W, 3) uint8 RGB, black outside the image.

    image: as `open_image` gives it. matrix: (2, 3), from input to image coordinates (see train.transforms). Where that
    shrinks the image by two or more, the decoder (JPEG) or a box filter shrinks it by a whole factor first: bilinear
    sampling alone would skip pixels, and decoding is faster. Pixels are taken as stored; an EXIF orientation is not
    applied. A byte is within 2.5 of exact bilinear sampling. Raises ImageError for an image that is cut off or damaged.
    """
    pixels, factor = _decode(image, int(np.hypot(*matrix[:, :2]).min()))
    (xx, xy, x0), (yx, yy, y0) = (matrix / factor).tolist()
    if native.problem is None and xy == yx == 0:  # twenty times as fast as Pillow
        decoded = torch.from_numpy(np.array(pixels))  # a copy: torch takes no memory that is read-only
        return native.resample_window(decoded, (xx, yy), (x0, y0), size).numpy()
    source = (xx, xy, x0, yx, yy, y0)
    return np.asarray(pixels.transform(size[::-1], Image.Transform.AFFINE, source, Image.Resampling.BILINEAR))


def _decode(image: Image.Image, shrink: int) -> tuple[Image.Image, int]:
    """The image as RGB, smaller by the whole factor that is returned with it, at most `shrink` (and at least 1)."""
    width, height = image.size
    factor = 1
    try:
        if shrink >= 2 and isinstance(image, JpegImagePlugin.JpegImageFile):
            # Rounded up, so that the decoder never takes a larger factor than asked for.
            image.draft(None, (-(-width // shrink), -(-height // shrink)))
            factor = max(1, round(max(width / image.size[0], height / image.size[1])))
        image.load()
        pixels = image if image.mode == "RGB" else image.convert("RGB")  # which copies always
    except Exception as error:  # a broken file makes Pillow's many decoders raise almost anything
        raise _unreadable(error) from error
    rest = shrink // factor
    return (pixels.reduce(rest), factor * rest) if rest >= 2 else (pixels, factor)


def _unreadable(error: Exception) -> ImageError:
    return ImageError(f"cannot be decoded: {str(error) or type(error).__name__}")
