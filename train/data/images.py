"""Image files to network inputs: decoding and resampling, with one error for whatever is broken in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, JpegImagePlugin

from mdnkernels import native
from mdnkernels.train.config.options import Orientation

EXIF_ORIENTATION = 0x0112
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_SAMPLE_FORMAT = 258, 262, 339
# Formats whose numbers of more than 8 bits are measurements, not grey levels.
MEASUREMENTS = ("FITS", "MCIDAS")


class ImageError(Exception):
    """An image file is missing or cannot be decoded; the message says why, without the file's name."""


def open_image(path: Path) -> Image.Image:
    """Open an image file; its pixels are decoded later.

    `size` and pixels are as the file stores them, but for a TIFF, whose orientation tag Pillow always applies. Raises
    ImageError.
    """
    try:
        image = Image.open(path)
        if image.format == "TIFF" and _tiff_tag(image, EXIF_ORIENTATION, 1) in (5, 6, 7, 8):
            # Pillow would map such a file into memory with its sides swapped (11.0 and later), and older ones tell the
            # turned size only when they have decoded the pixels.
            image.filename = ""
            image.load()
        return image
    except FileNotFoundError:
        raise ImageError("there is no such file") from None
    except Exception as error:  # a broken file makes Pillow's many readers raise almost anything
        raise _unreadable(error) from error


def exif_orientation(image: Image.Image) -> int:
    """Return how EXIF says that the stored pixels are to be turned: 1, not at all, to 8.

    It is 1 where the file says nothing, or nothing valid, and for a TIFF, which is turned already. Of a PNG the pixels
    are decoded, as EXIF may stand behind them. Raises ImageError where they cannot be.
    """
    if image.format == "TIFF":
        return 1
    if image.format == "PNG":
        try:
            image.load()
        except Exception as error:  # as in open_image
            raise _unreadable(error) from error
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF, beside pixels that are whole: viewers ignore it
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def image_size(image: Image.Image, orientation: Orientation = "stored") -> tuple[int, int]:
    """Return an opened image's width and height in that orientation. Raises ImageError as `exif_orientation` does."""
    swapped = orientation == "exif" and exif_orientation(image) >= 5
    return image.size[::-1] if swapped else image.size


def has_transparency(image: Image.Image) -> bool:
    """Tell whether a decoded image has pixels that are not opaque."""
    if "A" not in image.getbands() and "a" not in image.getbands() and "transparency" not in image.info:
        return False
    if image.mode == "La":
        image = image.convert("LA")
    alpha = image.convert("RGBA").getchannel("A").getextrema()[0]
    return bool(alpha < 255)  # type: ignore[operator]


def read_rgb(image: Image.Image, orientation: Orientation = "stored") -> Image.Image:
    """Decode an opened image to RGB.

    Grey levels of 16 bits (12 in some TIFFs) give their upper eight. Transparency is left out: the colours of
    transparent pixels show, as in OpenCV and torchvision. Raises ImageError for an image that is cut off or damaged,
    and for numbers without a natural range: 32 bits, signed or floating-point.
    """
    turn = _turn(image, orientation)
    stored_size = image.size
    pixels, _ = _decode(image, 1)
    if turn == 1:
        return pixels
    size = stored_size[::-1] if turn >= 5 else stored_size
    matrix = _to_stored(turn, stored_size).ravel().tolist()
    return pixels.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


def warp(
    image: Image.Image, matrix: np.ndarray, size: tuple[int, int], orientation: Orientation = "stored"
) -> np.ndarray:
    """Resample `image` through `matrix` to an input of size (H, W): (H, W, 3) uint8 RGB, black outside the image.

    image: as `open_image` gives it. matrix: (2, 3), from input to image coordinates (see train/data/transforms.py), in
    that orientation.

    Where it shrinks the image by two or more, the decoder (JPEG) or a box filter shrinks it by a whole
    factor first: bilinear sampling alone would skip pixels, and decoding is faster. A byte is within 2.5 of exact
    bilinear sampling. Colours and errors are those of `read_rgb`.
    """
    turn = _turn(image, orientation)
    shrink = int(np.hypot(*matrix[:, :2]).min())
    if turn != 1:
        stored = _to_stored(turn, image.size)
        matrix = stored[:, :2] @ matrix + [[0, 0, stored[0, 2]], [0, 0, stored[1, 2]]]
    pixels, factor = _decode(image, shrink)
    (xx, xy, x0), (yx, yy, y0) = (matrix / factor).tolist()
    upright = xy == yx == 0
    if native.problem is None and (upright or xx == yy == 0):  # twenty times as fast as Pillow
        decoded = np.asarray(pixels)
        if not upright:  # a quarter turn is one of rows and columns that change places
            decoded = decoded.swapaxes(0, 1)
            (xx, x0), (yy, y0) = (yx, y0), (xy, x0)
        # A copy: torch takes no memory that is read-only.
        return native.resample_window(torch.from_numpy(decoded.copy()), (xx, yy), (x0, y0), size).numpy()
    source = (xx, xy, x0, yx, yy, y0)
    return np.asarray(pixels.transform(size[::-1], Image.Transform.AFFINE, source, Image.Resampling.BILINEAR))


def _turn(image: Image.Image, orientation: Orientation) -> int:
    return exif_orientation(image) if orientation == "exif" else 1


def _to_stored(turn: int, size: tuple[int, int]) -> np.ndarray:
    """Return the (2, 3) matrix from the turned picture's coordinates to the stored one's, `size` wide and high."""
    width, height = size
    # After a quarter turn, from 5 on, the stored x runs along the turned picture's y.
    rows = {
        1: ((1, 0, 0), (0, 1, 0)),
        2: ((-1, 0, width), (0, 1, 0)),
        3: ((-1, 0, width), (0, -1, height)),
        4: ((1, 0, 0), (0, -1, height)),
        5: ((0, 1, 0), (1, 0, 0)),
        6: ((0, 1, 0), (-1, 0, height)),
        7: ((0, -1, width), (-1, 0, height)),
        8: ((0, -1, width), (1, 0, 0)),
    }
    return np.array(rows[turn], dtype=np.float64)


def _decode(image: Image.Image, shrink: int) -> tuple[Image.Image, int]:
    """Decode to RGB, shrinking by a whole factor of at most `shrink` and at least 1, which is returned too."""
    width, height = image.size
    factor = 1
    _check_range(image)
    try:
        if shrink >= 2 and isinstance(image, JpegImagePlugin.JpegImageFile):
            # Rounded up, so that the decoder never takes a larger factor than asked for.
            image.draft(None, (-(-width // shrink), -(-height // shrink)))
            factor = max(1, round(max(width / image.size[0], height / image.size[1])))
        image.load()
        pixels = _to_rgb(image)
    except Exception as error:  # a broken file makes Pillow's many decoders raise almost anything
        raise _unreadable(error) from error
    rest = shrink // factor
    return (pixels.reduce(rest), factor * rest) if rest >= 2 else (pixels, factor)


def _check_range(image: Image.Image) -> None:
    """Raise ImageError for numbers of which nobody can say which is black and which is white."""
    kind = None
    if image.mode == "F":
        kind = "floating-point numbers"
    elif _tiff_tag(image, TIFF_SAMPLE_FORMAT, 1) == 2 and _tiff_tag(image, TIFF_BITS, 32) <= 16:
        kind = "signed whole numbers"
    elif image.mode.startswith("I;16") and image.format in MEASUREMENTS:
        kind = "measured numbers of 16 bits"
    elif image.mode == "I" and image.format not in ("PNG", "PPM"):  # whose numbers are of 16 bits
        kind = "whole numbers of 32 bits"
    if kind is not None:
        raise ImageError(
            f"holds {kind} (mode {image.mode}), of which none is black or white by nature; "
            "scale them to 0 .. 255 and save the image with 8 bits, or to 0 .. 65535 with 16"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert the decoded image to RGB; Pillow itself would clip what is above 255."""
    if image.mode.startswith("I"):
        bits = 12 if _tiff_tag(image, TIFF_BITS, 16) == 12 else 16
        grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
        if _tiff_tag(image, TIFF_PHOTOMETRIC, 1) == 0:  # white is zero, which Pillow minds for 8 bits alone
            grey = 255 - grey
        return Image.fromarray(grey).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    return image if image.mode == "RGB" else image.convert("RGB")  # which copies always


def _tiff_tag(image: Image.Image, tag: int, default: int) -> int:
    """Return the first value of a TIFF's tag; the default where there is none, as in every other format."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return (value[0] if value else default) if isinstance(value, tuple) else value


def _unreadable(error: Exception) -> ImageError:
    return ImageError(f"cannot be decoded: {str(error) or type(error).__name__}")
