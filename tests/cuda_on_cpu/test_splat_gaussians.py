"""splat_gaussians: the CUDA kernels on the CPU over many bands; tests/ops/test_matrix.py has the small maps."""

from __future__ import annotations

import pytest
import torch

import mdnkernels
from tests import cuda_on_cpu
from tests.ops.table import OPS, Draw

SECTOR = 32


def objects(batch, count, labels, size, largest=9):
    return OPS["splat_gaussians"].arguments(Draw(batch, size), points=count, labels=labels, largest=largest).values()


def on_cuda(*arguments, seed=0, count=False):
    with cuda_on_cpu.running(seed=seed, count=count) as report, mdnkernels.use_backend("native"):
        heatmap = mdnkernels.splat_gaussians(*arguments)
    return heatmap, report


def assert_agrees(*arguments):
    heatmap, _ = on_cuda(*arguments)
    with mdnkernels.use_backend("eager"):
        expected = mdnkernels.splat_gaussians(*arguments)
    torch.testing.assert_close(heatmap, expected, rtol=1e-6, atol=1e-38)
    assert torch.equal(heatmap > 0, expected > 0)


@pytest.mark.parametrize(
    "size",
    [
        (128, 128),  # two bands
        (101, 99),  # all but every fourth map begin within a pack
        (1, 20001),
        (9000, 1),
        (3, 3),
        (91, 90),  # 8190 cells: a map that begins two cells into a pack needs a second band for none
        (91, 91),
    ],
)
def test_bands_of_every_size_of_map(size):
    assert_agrees(*objects(2, 40, 3, size))


def test_more_objects_than_a_block_has_threads():
    assert_agrees(*objects(2, 700, 2, (40, 50), largest=3))


def test_one_object_covers_everything():
    center, radius, label = torch.tensor([[[60, 70]]]), torch.tensor([[2**31 - 1]]), torch.tensor([[1]])
    assert_agrees(center, radius, label, 2, (128, 128))


def test_the_centre_is_exactly_one():
    center, radius, label, labels, size = objects(2, 50, 4, (128, 96))
    heatmap, _ = on_cuda(center, radius, label, labels, size)
    for image in range(2):
        for (x, y), of in zip(center[image].tolist(), label[image].tolist(), strict=True):
            assert of < 0 or heatmap[image, of, y, x] == 1


def test_the_same_bits_in_every_order():
    arguments = objects(2, 300, 2, (70, 61))
    first, _ = on_cuda(*arguments)
    for seed in range(1, 20):
        assert torch.equal(on_cuda(*arguments, seed=seed)[0], first)


def test_each_cell_is_written_once_and_labels_are_all_that_most_blocks_read():
    arguments = objects(2, 32, 8, (128, 128))
    heatmap, report = on_cuda(*arguments, count=True)
    (launch,) = report.launches
    assert launch.written.sectors == heatmap.nbytes / SECTOR
    assert launch.written.bytes == heatmap.nbytes
    assert launch.written.sectors + launch.read.sectors <= 1.05 * heatmap.nbytes / SECTOR
