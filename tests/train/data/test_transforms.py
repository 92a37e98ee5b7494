"""Windows, flips and boxes: one coordinate system for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdnkernels.train.config.options import AugmentConfig
from mdnkernels.train.data.transforms import clip_boxes, draw_augmentation, fit_image, invert, move_boxes, window


@pytest.mark.parametrize("image_size", [(640, 480), (480, 640), (512, 512), (37, 911)])
@pytest.mark.parametrize("size", [(512, 512), (256, 384)])
def test_fitting_shows_the_whole_image_centred(image_size: tuple[int, int], size: tuple[int, int]) -> None:
    whole = move_boxes(np.array([[0.0, 0.0, *image_size]]), invert(fit_image(image_size, size).matrix))[0]
    np.testing.assert_allclose((whole[:2] + whole[2:]) / 2, (size[1] / 2, size[0] / 2))
    free = np.array(size[::-1]) - (whole[2:] - whole[:2])
    assert np.isclose(free.min(), 0)
    assert free.max() > -1e-9


def test_flip_mirrors_the_window_about_its_centre() -> None:
    straight, flipped = (window((100, 50), 2.0, (64, 64), flip) for flip in (False, True))
    box = np.array([[90.0, 40.0, 95.0, 60.0]])
    there, mirrored = (move_boxes(box, invert(matrix))[0] for matrix in (straight, flipped))
    np.testing.assert_allclose(there, [27, 27, 29.5, 37])
    np.testing.assert_allclose(mirrored, [64 - 29.5, 27, 64 - 27, 37])


@given(
    centre=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    pixels=st.floats(0.05, 20),
    flip=st.booleans(),
    box=st.tuples(st.floats(0, 300), st.floats(0, 300), st.floats(0.1, 300), st.floats(0.1, 300)),
)
def test_inverse_brings_a_box_back(
    centre: tuple[float, float], pixels: float, flip: bool, box: tuple[float, float, float, float]
) -> None:
    matrix = window(centre, pixels, (128, 96), flip)
    x, y, w, h = box
    boxes = np.array([[x, y, x + w, y + h]])
    moved = move_boxes(boxes, invert(matrix))
    assert (moved[:, 2:] > moved[:, :2]).all()
    np.testing.assert_allclose(move_boxes(moved, matrix), boxes, atol=1e-8)


def test_turned_box_is_the_box_around_its_corners() -> None:
    quarter = np.array([[0.0, -1.0, 100.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(move_boxes(np.array([[10.0, 20.0, 40.0, 30.0]]), quarter), [[70, 10, 80, 40]])


def test_clipping_leaves_nothing_of_a_box_outside() -> None:
    clipped = clip_boxes(np.array([[-5.0, -5.0, 20.0, 30.0], [70.0, 3.0, 90.0, 9.0]]), 64, 16)
    np.testing.assert_array_equal(clipped, [[0, 0, 20, 16], [64, 3, 64, 9]])


@pytest.mark.parametrize("image_size", [(640, 480), (200, 130), (3, 2), (1, 1)])
def test_random_window_is_centrenets(image_size: tuple[int, int]) -> None:
    config = AugmentConfig()
    width, height = image_size
    scales, flips = set(), 0
    for index in range(300):
        drawn = draw_augmentation(np.random.default_rng([0, 1, index]), image_size, (512, 512), config)
        across, down = drawn.matrix[0, 0], drawn.matrix[1, 1]
        assert abs(across) == pytest.approx(down)
        flips += across < 0
        scales.add(round(down * 512 / max(image_size), 6))
        x, y = drawn.matrix @ (256, 256, 1)
        # CenterNet's border: 128, halved until the rest of the side is larger than it.
        assert all(
            border <= value <= side - border
            for value, side in ((x, width), (y, height))
            for border in [next((b for b in (128, 64, 32, 16, 8, 4, 2, 1) if side - b > b), 0)]
        )
        assert (np.abs(drawn.colour[:3] - 1) <= 0.4).all()
        assert drawn.colour[3] in range(6)
    assert scales == {0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3}
    assert 100 < flips < 200
