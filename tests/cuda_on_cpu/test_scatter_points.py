"""scatter_points: the CUDA kernels on the CPU against a loop over the points."""

from __future__ import annotations

import pytest
import torch

import mdnkernels
from tests import cuda_on_cpu

MOST_WITHOUT_A_SORT = 1024  # points of an image


def points_of(batch, channels, points, positions, dtype=torch.float32):
    generator = torch.Generator().manual_seed(points)
    values = torch.randn(batch, channels, points, generator=generator, dtype=dtype)
    return values, torch.randint(-1, positions, (batch, points), generator=generator)


def added_one_by_one(values, index, positions):
    maps = torch.zeros(*values.shape[:2], positions, dtype=values.dtype)
    for b in range(len(index)):
        for n, position in enumerate(index[b].tolist()):
            if position >= 0:
                maps[b, :, position] += values[b, :, n]
    return maps


def scattered(values, index, positions, seed=0, count=False):
    with cuda_on_cpu.running(seed=seed, count=count) as report, mdnkernels.use_backend("native"):
        maps = torch.ops.mdnkernels.scatter_points(values, index, positions)
    return maps, report


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("channels", "points", "positions"),
    [(5, 50, 7), (1, 1, 1), (3, 0, 4), (5, 300, 40), (30, 32, 9000), (3, 1024, 16384), (2, 1024, 1), (2, 1025, 900)],
)
def test_values_are_added_in_the_order_of_the_points(channels, points, positions, dtype):
    values, index = points_of(2, channels, points, positions, dtype)
    expected = added_one_by_one(values, index, positions)
    for seed in range(3):
        assert torch.equal(scattered(values, index, positions, seed)[0], expected)


@pytest.mark.parametrize(("points", "kernel"), [(MOST_WITHOUT_A_SORT, "add_points"), (1025, "add_sorted_points")])
def test_one_launch_which_writes_a_sector_for_each_position(points, kernel):
    values, index = points_of(1, 8, points, 16384)
    _, report = scattered(values, index, 16384, count=True)
    (launch,) = report.launches
    assert f"{kernel}<" in launch.kernel
    assert launch.written.bytes == 8 * len(set(index[0].tolist()) - {-1}) * 4
