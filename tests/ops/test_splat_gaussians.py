from __future__ import annotations

import math

import pytest
import torch

from mdnkernels import splat_gaussians


def by_hand(center, radius, label, num_labels, size):
    """An object, a row, a cell at a time."""
    heatmap = torch.zeros(center.shape[0], num_labels, *size)
    for b in range(center.shape[0]):
        for n in range(center.shape[1]):
            if label[b, n] < 0:
                continue
            (x, y), r = center[b, n].tolist(), int(radius[b, n])
            sigma = (2 * r + 1) / 6
            for v in range(max(y - r, 0), min(y + r + 1, size[0])):
                for u in range(max(x - r, 0), min(x + r + 1, size[1])):
                    value = math.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))
                    heatmap[b, label[b, n], v, u] = max(heatmap[b, label[b, n], v, u].item(), value)
    return heatmap


def test_targets_are_those_of_a_loop_over_cells():
    generator = torch.Generator().manual_seed(0)
    size = (11, 17)
    center = torch.stack([torch.randint(0, n, (3, 9), generator=generator) for n in (17, 11)], -1)
    radius = torch.randint(0, 7, (3, 9), generator=generator)
    label = torch.randint(-1, 4, (3, 9), generator=generator)
    actual = splat_gaussians(center, radius, label, 4, size)
    torch.testing.assert_close(actual, by_hand(center, radius, label, 4, size), rtol=1e-6, atol=1e-7)
    for b in range(3):
        for n in range(9):
            if label[b, n] >= 0:
                assert actual[b, label[b, n], center[b, n, 1], center[b, n, 0]] == 1


def test_radius_zero_is_one_cell():
    heatmap = splat_gaussians(torch.tensor([[[2, 1]]]), torch.tensor([[0]]), torch.tensor([[0]]), 1, (3, 4))
    assert heatmap.sum() == heatmap[0, 0, 1, 2] == 1


def test_padding_may_hold_anything():
    heatmap = splat_gaussians(torch.tensor([[[-7, 99]]]), torch.tensor([[-3]]), torch.tensor([[-1]]), 2, (3, 4))
    assert (heatmap == 0).all()


@pytest.mark.parametrize(("batch", "count"), [(0, 3), (2, 0)])
def test_no_objects_give_an_empty_map(batch, count):
    empty = torch.zeros(batch, count, dtype=torch.int64)
    heatmap = splat_gaussians(empty.unsqueeze(-1).expand(-1, -1, 2), empty, empty, 2, (3, 4))
    assert heatmap.shape == (batch, 2, 3, 4)
    assert (heatmap == 0).all()


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"center": torch.tensor([[[4, 0]]])}, IndexError, "width"),
        ({"center": torch.tensor([[[0, 3]]])}, IndexError, "height"),
        ({"center": torch.tensor([[[0.0, 0.0]]])}, TypeError, "center"),
        ({"center": torch.tensor([[0, 0]])}, ValueError, "center"),
        ({"radius": torch.tensor([[-1]])}, IndexError, "radius"),
        ({"radius": torch.tensor([[1, 2]])}, ValueError, "radius"),
        ({"label": torch.tensor([[2]])}, IndexError, "label"),
        ({"label": torch.tensor([[-2]])}, IndexError, "label"),
        ({"num_labels": 0}, ValueError, "num_labels"),
        ({"size": (3,)}, ValueError, "size"),
        ({"size": (3, 0)}, ValueError, "size"),
    ],
)
def test_bad_input_is_refused_by_name(change, error, word):
    good = {
        "center": torch.tensor([[[1, 1]]]),
        "radius": torch.tensor([[1]]),
        "label": torch.tensor([[0]]),
        "num_labels": 2,
        "size": (3, 4),
    }
    with pytest.raises(error, match=word):
        splat_gaussians(**{**good, **change})
