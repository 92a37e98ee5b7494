"""Decoding and resampling: pixels land where boxes say they do, and every broken file is one kind of error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps, JpegImagePlugin

from mdnkernels import native
from mdnkernels.train.data.images import (
    ImageError,
    exif_orientation,
    has_transparency,
    image_size,
    open_image,
    read_rgb,
    warp,
)
from mdnkernels.train.data.transforms import fit_image, invert, move_boxes, window
from tests.native.simd import LEVELS, run_at_level
from tests.train.raw_images import write_png16, write_tiff


def rectangle_image(size: tuple[int, int], box: tuple[int, ...], blur: float = 0) -> Image.Image:
    """Draw white where x1 <= x < x2 and y1 <= y < y2, and black elsewhere. A blur moves no edge."""
    image = Image.new("RGB", size)
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill="white")
    return image.filter(ImageFilter.GaussianBlur(blur)) if blur else image


def measured_box(pixels: np.ndarray) -> list[float]:
    """Measure the edges of a white rectangle on black to a fraction of a pixel, from its profile along each axis."""
    light = pixels[..., 0].astype(float) / 255
    light[light < 0.02] = 0  # what a JPEG leaves of black
    edges = []
    for profile in (light.max(0), light.max(1)):
        centre = (profile * (np.arange(len(profile)) + 0.5)).sum() / profile.sum()
        edges.append((centre - profile.sum() / 2, centre + profile.sum() / 2))
    return [edges[0][0], edges[1][0], edges[0][1], edges[1][1]]


def sampled(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Interpolate bilinearly between the centres of pixels in float64. A point outside the image is black."""
    height, width = image.shape[:2]
    v, u = np.mgrid[: size[0], : size[1]] + 0.5
    x, y = np.einsum("ij,jvu->ivu", matrix, np.stack((u, v, np.ones_like(u))))
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    left, top = np.floor(x - 0.5).astype(int), np.floor(y - 0.5).astype(int)
    total = np.zeros((*size, 3))
    for column, across in ((left, 1 - (x - 0.5 - left)), (left + 1, x - 0.5 - left)):
        for row, down in ((top, 1 - (y - 0.5 - top)), (top + 1, y - 0.5 - top)):
            total += image[row.clip(0, height - 1), column.clip(0, width - 1)] * (across * down)[..., None]
    return total * inside[..., None]


@pytest.mark.parametrize("library", [True, False], ids=["native", "Pillow"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("pixels", "shown"), [(0.37, "inside"), (1.0, "border"), (1.93, "whole"), (0.01, "inside")])
@pytest.mark.parametrize("image_size", [(61, 47), (1, 1), (2, 3), (7, 1)])
def test_pixels_are_those_of_exact_arithmetic(
    monkeypatch: pytest.MonkeyPatch, library: bool, flip: bool, pixels: float, shown: str, image_size: tuple[int, int]
) -> None:
    if library and native.problem is not None:
        pytest.skip(native.problem)
    if not library:
        monkeypatch.setattr(native, "problem", "as if it was not built")
    image = np.random.default_rng(0).integers(0, 256, (*image_size[::-1], 3), dtype=np.uint8)
    middle = {"inside": 0.5, "border": 0.9, "whole": 0.45}[shown]
    # An odd number of pixels a side, so that the last vector is not full; no centre lies on the image's border.
    matrix = window((middle * image_size[0] + 0.013, middle * image_size[1] + 0.017), pixels, (45, 67), flip)
    result = warp(Image.fromarray(image), matrix, (45, 67))
    assert result.shape == (45, 67, 3)
    # The library's weights are in 128ths, and it rounds; Pillow cuts fractions off.
    off = sampled(image, matrix, (45, 67)) - result
    assert np.abs(off).max() < 2.5
    assert abs(off.mean()) < (0.1 if library else 0.6)


def test_turned_window_is_resampled_too() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    matrix = np.array([[0.8, -0.6, 20.3], [0.6, 0.8, -4.1]])
    np.testing.assert_allclose(
        warp(Image.fromarray(image), matrix, (32, 48)), sampled(image, matrix, (32, 48)), atol=1.1
    )


@pytest.mark.skipif(native.problem is not None, reason=str(native.problem))
@pytest.mark.parametrize("level", LEVELS)
def test_every_simd_level_of_this_machine_gives_the_same_pixels(level: str) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (51, 83, 3), dtype=torch.uint8, generator=generator)
    here = native.resample_window(image, (-0.71, 0.83), (70.2, -6.4), (64, 97))
    script = """
import torch
from mdnkernels import native
generator = torch.Generator().manual_seed(0)
image = torch.randint(0, 256, (51, 83, 3), dtype=torch.uint8, generator=generator)
pixels = native.resample_window(image, (-0.71, 0.83), (70.2, -6.4), (64, 97))
print("level", native.simd_level(), "sum", (pixels.flatten().long() * torch.arange(pixels.numel())).sum().item())
"""
    expected = (here.flatten().long() * torch.arange(here.numel())).sum().item()
    assert f"level {level} sum {expected}" in run_at_level(script, level)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("pixels", [0.37, 0.5, 1.0, 1.7, 2.0, 3.3, 9.1])
@pytest.mark.parametrize("file", ["memory", "jpeg", "png"])
def test_drawn_rectangle_lies_where_its_box_is_moved_to(tmp_path: Path, pixels: float, flip: bool, file: str) -> None:
    size = (801, 603)
    around = (395.5, 301.25)
    half = 28 * pixels
    box = tuple(round(c + s) for s in (-half, half) for c in around)
    image = rectangle_image(size, box, blur=pixels)  # edges that every sampling can see
    if file != "memory":
        path = tmp_path / f"rectangle.{file}"
        image.save(path, **({"quality": 95, "subsampling": 0} if file == "jpeg" else {}))
        image = open_image(path)
    matrix = window((around[0] + 3.3 * pixels, around[1] - 2.1 * pixels), pixels, (96, 80), flip)
    expected = move_boxes(np.array([box], dtype=float), invert(matrix))[0]
    np.testing.assert_allclose(measured_box(warp(image, matrix, (96, 80))), expected, atol=0.1)


def test_shrinking_averages_instead_of_skipping(tmp_path: Path) -> None:
    stripes = np.zeros((512, 512, 3), dtype=np.uint8)
    stripes[:, ::8] = 255  # every eighth column: a sampler that skips sees all black or all white
    path = tmp_path / "stripes.png"
    Image.fromarray(stripes).save(path)
    with open_image(path) as image:
        small = warp(image, fit_image((512, 512), (64, 64)).matrix, (64, 64))
    np.testing.assert_allclose(small.astype(float), 255 / 8, atol=2)


@pytest.mark.parametrize("pixels", [2.0, 3.7, 8.5])
def test_jpeg_shrunk_by_its_decoder_looks_like_the_one_shrunk_after(tmp_path: Path, pixels: float) -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 11, 3), dtype=np.uint8))
    path = tmp_path / "blobs.jpg"
    coarse.resize((701, 523), Image.Resampling.BICUBIC).save(path, quality=95)
    matrix = window((350, 260), pixels, (64, 64))
    with open_image(path) as image:
        by_decoder = warp(image, matrix, (64, 64)).astype(float)
    with Image.open(path) as image:
        after = warp(image.convert("RGB"), matrix, (64, 64)).astype(float)
    assert np.abs(by_decoder - after).mean() < 2


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1", "RGBA", "LA"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (40, 30), "white").convert(mode)
    path = tmp_path / ("image.jpg" if mode in ("L", "CMYK") else "image.png")
    image.save(path)
    with open_image(path) as opened:
        pixels = warp(opened, fit_image((40, 30), (20, 20)).matrix, (20, 20))
    assert pixels.shape == (20, 20, 3)
    assert pixels.dtype == np.uint8
    assert (pixels[10] > 250).all()
    assert (pixels[0] == 0).all()  # outside the image


RAMP = np.arange(256, dtype=np.uint16)[None].repeat(6, 0) * 257  # 0 .. 65535, whose upper byte is the column
GREY16 = {
    "png": lambda path: write_png16(path, RAMP),
    "png with alpha": lambda path: write_png16(path, np.stack((RAMP, RAMP), 2)),
    "rgb png": lambda path: write_png16(path, RAMP[..., None].repeat(3, 2)),
    "little-endian tiff": lambda path: write_tiff(path, RAMP.astype("<u2")),
    "big-endian tiff": lambda path: write_tiff(path, RAMP.astype(">u2")),
    "packed tiff": lambda path: Image.fromarray(RAMP).save(path, "TIFF", compression="tiff_lzw"),
    "white-is-zero tiff": lambda path: write_tiff(path, (65535 - RAMP).astype("<u2"), photometric=0),
    "12-bit tiff": lambda path: write_tiff(path, RAMP >> 4, bits=12),
    "pgm": lambda path: path.write_bytes(b"P5 256 6 65535\n" + RAMP.astype(">u2").tobytes()),
    "10-bit pgm": lambda path: path.write_bytes(b"P5 256 6 1023\n" + (RAMP >> 6).astype(">u2").tobytes()),
    "jpeg 2000": lambda path: Image.fromarray(RAMP).save(path, "JPEG2000"),
}


@pytest.mark.parametrize("kind", GREY16)
def test_grey_of_more_than_8_bits_becomes_its_upper_8(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "grey"
    GREY16[kind](path)
    with open_image(path) as image:
        shown = warp(image, window((128, 3), 1, (6, 256)), (6, 256))
        whole = np.asarray(read_rgb(image))
    for pixels in (shown, whole):
        np.testing.assert_array_equal(pixels[3], np.arange(256)[:, None].repeat(3, 1))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_grey_of_16_bits_in_memory_becomes_its_upper_8(mode: str) -> None:
    raw = RAMP.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
    pixels = np.asarray(read_rgb(Image.frombytes(mode, (256, 6), raw)))
    np.testing.assert_array_equal(pixels[0, :, 0], np.arange(256))


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("<f4", "floating-point numbers"),
        (">f4", "floating-point numbers"),
        ("<i2", "signed whole numbers"),
        (">i2", "signed whole numbers"),
        ("i1", "signed whole numbers"),
        ("<i4", "whole numbers of 32 bits"),
        ("<u4", "whole numbers of 32 bits"),
        ("<f8", "cannot be decoded"),
    ],
)
def test_numbers_without_a_natural_range_are_refused(tmp_path: Path, dtype: str, message: str) -> None:
    path = tmp_path / "measured.tif"
    write_tiff(path, np.ones((4, 4), dtype=dtype))
    with pytest.raises(ImageError, match=message) as caught, open_image(path) as image:
        warp(image, window((2, 2), 1, (4, 4)), (4, 4))
    assert "8 bits" in str(caught.value) or dtype == "<f8"


def test_transparency_is_left_out_and_seen(tmp_path: Path) -> None:
    colours = np.full((4, 4, 4), (200, 100, 50, 255), dtype=np.uint8)
    for name, alpha in (("opaque", 255), ("clear", 0)):
        colours[0, 0, 3] = alpha
        path = tmp_path / f"{name}.png"
        Image.fromarray(colours).save(path)
        with open_image(path) as image:
            assert (np.asarray(read_rgb(image)) == (200, 100, 50)).all()
            assert has_transparency(image) == (name == "clear")
    palette = Image.fromarray(colours[..., :3]).quantize(4)
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((0, 0)))
    with open_image(tmp_path / "palette.png") as image:
        assert (np.asarray(read_rgb(image)) == (200, 100, 50)).all()
        assert has_transparency(image)


def test_premultiplied_alpha_is_divided_out() -> None:
    image = Image.frombytes("La", (4, 4), bytes((60, 128)) * 16)
    assert (np.abs(np.asarray(read_rgb(image)).astype(int) - 60 * 255 / 128) <= 1).all()
    assert has_transparency(image)


def turned_file(path: Path, orientation: int, size: tuple[int, int] = (64, 32)) -> None:
    """Write smooth noise as a camera that is held in this orientation stores it."""
    rng = np.random.default_rng(orientation)
    image = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, **({"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}))


def test_stored_pixels_are_taken_as_they_lie(tmp_path: Path) -> None:
    turned_file(tmp_path / "turned.jpg", 6)
    with open_image(tmp_path / "turned.jpg") as opened, Image.open(tmp_path / "turned.jpg") as expected:
        assert image_size(opened) == opened.size == (64, 32)
        shown = warp(opened, window((32, 16), 1, (32, 64)), (32, 64))
        np.testing.assert_array_equal(shown, np.asarray(expected))
        np.testing.assert_array_equal(np.asarray(read_rgb(opened)), np.asarray(expected))


@pytest.mark.parametrize("library", [True, False], ids=["native", "Pillow"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_exif_orientation_gives_what_pillow_transposes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, orientation: int, library: bool
) -> None:
    if not library:
        monkeypatch.setattr(native, "problem", "as if it was not built")
    path = tmp_path / f"turned.{kind}"
    turned_file(path, orientation)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    height, width = upright.shape[:2]
    with open_image(path) as image:
        assert exif_orientation(image) == orientation
        assert image_size(image, "exif") == (width, height)
        np.testing.assert_array_equal(np.asarray(read_rgb(image, "exif")), upright)
    for flip in (False, True):
        with open_image(path) as image:
            matrix = window((width / 2, height / 2), 1, (height, width), flip)
            shown = warp(image, matrix, (height, width), "exif")
            np.testing.assert_array_equal(shown, upright[:, ::-1] if flip else upright)
    # Off the pixels' centres, enlarged, and in part outside.
    matrix = window((0.8 * width, 0.3 * height), 0.57, (45, 67))
    with open_image(path) as image:
        off = sampled(upright, matrix, (45, 67)) - warp(image, matrix, (45, 67), "exif")
    assert np.abs(off).max() < 2.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_turned_image_is_shrunk_where_the_upright_one_is(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / f"turned.{kind}"
    turned_file(path, orientation, (803, 601))  # sides that no decoder's factor divides
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    matrix = window((upright.width / 2 - 9, upright.height / 2 + 5), 5.3, (64, 96))
    with open_image(path) as image:
        assert kind == "png" or isinstance(image, JpegImagePlugin.JpegImageFile)
        shown = warp(image, matrix, (64, 96), "exif").astype(float)
    off = shown - warp(upright, matrix, (64, 96))
    inside = shown.min(2) > 0
    inside[1:-1, 1:-1] &= inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    assert np.abs(off[inside]).max() < 6  # half an input pixel of shift is up to 18


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("dtype", "form"), [("u1", None), ("<u2", None), (">u2", None), ("u1", "tiff_lzw")])
def test_tiff_is_upright_in_every_orientation(tmp_path: Path, dtype: str, form: str | None, orientation: int) -> None:
    path = tmp_path / "turned.tif"
    values = np.random.default_rng(0).integers(0, 256, (12, 20)).astype(dtype)
    if form is None:
        write_tiff(path, values * (257 if values.itemsize == 2 else 1), orientation=orientation)
    else:
        Image.fromarray(values).save(path, compression=form, tiffinfo={274: orientation})
    stored = Image.fromarray(values.astype(np.uint8))
    stored.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(stored))
    for taken in ("stored", "exif"):
        with open_image(path) as image:
            assert exif_orientation(image) == 1
            assert image_size(image, taken) == upright.shape[::-1]
            np.testing.assert_array_equal(np.asarray(read_rgb(image, taken))[..., 0], upright)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(tmp_path: Path, value: int) -> None:
    turned_file(tmp_path / "turned.jpg", value)
    with open_image(tmp_path / "turned.jpg") as image:
        assert exif_orientation(image) == 1


def test_damaged_exif_turns_nothing(tmp_path: Path) -> None:
    path = tmp_path / "damaged.jpg"
    Image.new("RGB", (64, 32)).save(path, exif=b"Exif\0\0Exif\0\0II*\0")
    with open_image(path) as image:
        assert exif_orientation(image) == 1
        assert image_size(image, "exif") == (64, 32)


@pytest.mark.parametrize("shrink", [1, 4])
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_cut_off_image_is_an_image_error(tmp_path: Path, kind: str, shrink: int) -> None:
    path = tmp_path / f"whole.{kind}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with open_image(path) as image, pytest.raises(ImageError, match="cannot be decoded"):
        warp(image, fit_image((256, 256), (256 // shrink, 256 // shrink)).matrix, (256 // shrink, 256 // shrink))


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"\xff\xd8\xff\xe0" + b"\0" * 40, b"\x89PNG\r\n\x1a\n" + b"\0" * 9]
)
def test_garbage_is_an_image_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="cannot be decoded"):
        open_image(path)


def test_missing_image_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        open_image(tmp_path / "absent.jpg")
