"""Decoding and resampling: pixels land where boxes say they do, and what is broken is one kind of error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter

from mdnkernels import native
from tests.ops.simd import run_at_level
from train.images import ImageError, open_image, warp
from train.transforms import fit_image, invert, move_boxes, window


def rectangle_image(size: tuple[int, int], box: tuple[int, ...], blur: float = 0) -> Image.Image:
    """White where x1 <= x < x2, y1 <= y < y2, black elsewhere; blurred, which moves no edge."""
    image = Image.new("RGB", size)
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill="white")
    return image.filter(ImageFilter.GaussianBlur(blur)) if blur else image


def measured_box(pixels: np.ndarray) -> list[float]:
    """The edges of a white rectangle on black, to a fraction of a pixel, from its profile along each axis."""
    light = pixels[..., 0].astype(float) / 255
    light[light < 0.02] = 0  # what a JPEG leaves of black
    edges = []
    for profile in (light.max(0), light.max(1)):
        centre = (profile * (np.arange(len(profile)) + 0.5)).sum() / profile.sum()
        edges.append((centre - profile.sum() / 2, centre + profile.sum() / 2))
    return [edges[0][0], edges[1][0], edges[0][1], edges[1][1]]


def sampled(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation between the centres of pixels in float64, black where the point is outside the image."""
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
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512", "neon"])
def test_every_simd_level_of_this_machine_gives_the_same_pixels(level: str) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (51, 83, 3), dtype=torch.uint8, generator=generator)
    here = native.resample_window(image, (-0.71, 0.83), (70.2, -6.4), (64, 97))
    script = """
import torch
from mdnkernels import native
from tests.ops.simd import run_at_level
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


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1", "RGBA", "LA", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((30, 40), 700, dtype=np.uint16))
    else:
        image = Image.new("RGB", (40, 30), "white").convert(mode)
    path = tmp_path / ("image.jpg" if mode in ("L", "CMYK") else "image.png")
    image.save(path)
    with open_image(path) as opened:
        pixels = warp(opened, fit_image((40, 30), (20, 20)).matrix, (20, 20))
    assert pixels.shape == (20, 20, 3)
    assert pixels.dtype == np.uint8
    assert (pixels[10] > 250).all()
    assert (pixels[0] == 0).all()  # outside the image


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    image = rectangle_image((64, 32), (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    image.save(path, exif=exif, quality=95)
    with open_image(path) as opened:
        assert opened.size == (64, 32)
        pixels = warp(opened, fit_image((64, 32), (64, 64)).matrix, (64, 64))
    assert (pixels[20:44, 4:28] > 240).all()
    assert (pixels[20:44, 36:60] < 15).all()


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
