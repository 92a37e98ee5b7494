"""Targets against an independent loop over objects, in plain Python floats as the published code does it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdnkernels.train.tasks.detection import detection_targets
from mdnkernels.train.tasks.targets import gaussian_radius


def published_radius(height: float, width: float, min_overlap: float = 0.7) -> float:
    """Return the smallest radius of CornerNet's and CenterNet's three cases, with their denominators."""
    b1 = height + width
    c1 = width * height * (1 - min_overlap) / (1 + min_overlap)
    r1 = (b1 + math.sqrt(b1**2 - 4 * c1)) / 2
    b2 = 2 * (height + width)
    c2 = (1 - min_overlap) * width * height
    r2 = (b2 + math.sqrt(b2**2 - 16 * c2)) / 2
    a3 = 4 * min_overlap
    b3 = -2 * min_overlap * (height + width)
    c3 = (min_overlap - 1) * width * height
    r3 = (b3 + math.sqrt(b3**2 - 4 * a3 * c3)) / 2
    return min(r1, r2, r3)


def test_radius_is_the_published_one_for_every_size() -> None:
    sides = torch.arange(1, 257)
    width, height = (grid.flatten() for grid in torch.meshgrid(sides, sides, indexing="ij"))
    expected = [int(published_radius(h, w)) for w, h in zip(width.tolist(), height.tolist(), strict=True)]
    assert gaussian_radius(width, height).tolist() == expected


def test_radius_of_nothing_is_nothing() -> None:
    assert gaussian_radius(torch.tensor([0, 0, 7]), torch.tensor([0, 9, 0])).tolist() == [0, 0, 0]


def loop_targets(
    boxes: np.ndarray, labels: np.ndarray, classes: int, size: tuple[int, int]
) -> tuple[np.ndarray, list[int], list[list[float]], list[list[float]]]:
    """Return heatmap, cells, sizes and offsets of one image, computed object by object and cell by cell."""
    height, width = size
    heatmap = np.zeros((classes, height, width))
    cells, sizes, offsets = [], [], []
    for (x1, y1, x2, y2), label in zip((boxes.astype(np.float64) / 4).tolist(), labels.tolist(), strict=True):
        if label < 0:
            cells.append(-1)
            sizes.append([0.0, 0.0])
            offsets.append([0.0, 0.0])
            continue
        w, h = x2 - x1, y2 - y1
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        column, row = min(int(x), width - 1), min(int(y), height - 1)
        radius = int(published_radius(math.ceil(h), math.ceil(w)))
        sigma = (2 * radius + 1) / 6
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                if 0 <= row + dy < height and 0 <= column + dx < width:
                    value = math.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma))
                    heatmap[label, row + dy, column + dx] = max(heatmap[label, row + dy, column + dx], value)
        cells.append(row * width + column)
        sizes.append([w, h])
        offsets.append([x - column, y - row])
    return heatmap, cells, sizes, offsets


# Quarters of a pixel, so that float32 holds every box and its centre exactly and a cell's border is no matter of luck.
quarter = st.integers(0, 4 * 95).map(lambda n: n / 4)


@settings(deadline=None, max_examples=60)
@given(
    objects=st.lists(
        st.tuples(quarter, quarter, quarter, quarter, st.integers(-1, 2)).filter(
            lambda o: o[0] != o[2] and o[1] != o[3]
        ),
        min_size=1,
        max_size=12,
    )
)
def test_targets_equal_the_loop(objects: list[tuple[float, float, float, float, int]]) -> None:
    corners = np.array([entry[:4] for entry in objects], dtype=np.float32)
    boxes = np.concatenate((np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])), 1)
    labels = np.array([entry[4] for entry in objects], dtype=np.int64)
    targets = detection_targets(torch.from_numpy(boxes)[None], torch.from_numpy(labels)[None], (24, 24))
    heatmap, cells, sizes, offsets = loop_targets(boxes, labels, 3, (24, 24))
    drawn = targets.heatmaps["heatmap"].draw(3, (24, 24))
    np.testing.assert_allclose(drawn[0].numpy(), heatmap, atol=1e-6)
    centres = len({(c, n) for c, n in zip(cells, labels.tolist(), strict=True) if c >= 0})
    assert (drawn == 1).sum() == targets.heatmaps["heatmap"].count_centres() == centres
    assert targets.index[0].tolist() == cells
    np.testing.assert_allclose(targets.size[0].T.numpy(), sizes, rtol=1e-6)
    np.testing.assert_allclose(targets.offset[0].T.numpy(), offsets, atol=1e-5)


def test_images_of_a_batch_do_not_mix() -> None:
    boxes = torch.tensor([[[0.0, 0, 16, 16], [8, 8, 40, 24]], [[20, 20, 60, 64], [9, 9, 9, 9]]])
    labels = torch.tensor([[0, 1], [1, -1]])
    both = detection_targets(boxes, labels, (16, 16))
    for row in range(2):
        alone = detection_targets(boxes[row : row + 1], labels[row : row + 1], (16, 16))
        for together, single in zip(both, alone, strict=True):
            torch.testing.assert_close(together[row : row + 1], single, rtol=0, atol=0)


def test_box_on_the_lower_right_border_has_its_centre_inside() -> None:
    edge = float(np.nextafter(np.float32(64), np.float32(0)))
    targets = detection_targets(torch.tensor([[[edge, edge, 64.0, 64.0]]]), torch.tensor([[0]]), (16, 16))
    assert targets.index.item() == 255
    assert targets.heatmaps["heatmap"].draw(1, (16, 16))[0, 0, 15, 15] == 1
    assert targets.size.min() > 0


def test_unknown_class_is_refused() -> None:
    targets = detection_targets(torch.tensor([[[0.0, 0, 8, 8]]]), torch.tensor([[2]]), (4, 4))
    with pytest.raises(IndexError, match="label"):
        targets.heatmaps["heatmap"].focal_loss(torch.zeros(1, 2, 4, 4))
