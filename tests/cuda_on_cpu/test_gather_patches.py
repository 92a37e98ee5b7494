"""gather_patches and its gradient: the CUDA kernels on the CPU; tests/ops/test_matrix.py has the small cases."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import mdnkernels
from tests import cuda_on_cpu
from tests.ops.table import OPS, Draw

SECTOR = 32
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def feature_and_index(batch, channels, *positions, points, dtype=torch.float32, channels_last=False):
    draw = Draw(batch, positions, dtype, "channels_last" if channels_last else "contiguous")
    feature, index, _ = OPS["gather_patches"].arguments(draw, channels=channels, points=points).values()
    return feature, index


def patches_and_gradient(feature, index, kernel_size):
    feature = feature.detach().requires_grad_()
    patches = mdnkernels.gather_patches(feature, index, kernel_size)
    factors = torch.linspace(-1, 1, patches.numel(), dtype=torch.float64).to(patches.dtype).view(patches.shape)
    (gradient,) = torch.autograd.grad(patches, feature, factors)
    return patches.detach(), gradient


def on_cuda(feature, index, kernel_size, seed=0, count=False):
    with cuda_on_cpu.running(seed=seed, count=count) as report, mdnkernels.use_backend("native"):
        results = patches_and_gradient(feature, index, kernel_size)
    return results, report


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("shape", "points", "kernel_size"),
    [
        ((2, 64, 9, 11), 20, 3),
        ((2, 130, 5, 7), 9, 3),  # two tiles of channels, the last one short
        ((1, 300, 4, 4), 3, 5),
        ((2, 3, 4, 5), 700, 3),  # every cell is covered by many objects, more than are looked at at once
        ((1, 2, 6, 7), 3, 35),  # the window of one channel is larger than a tile
        ((1, 16, 8, 8), 1, 1),
    ],
)
def test_patches_are_eager_s_and_gradients_the_cpu_kernels_bit_for_bit(
    shape, points, kernel_size, channels_last, dtype
):
    """Both kernels add each cell's elements in the order of the objects, so rounding is the same."""
    feature, index = feature_and_index(*shape, points=points, dtype=dtype, channels_last=channels_last)
    (patches, gradient), _ = on_cuda(feature, index, kernel_size)
    with mdnkernels.use_backend("eager"):
        assert torch.equal(patches, mdnkernels.gather_patches(feature, index, kernel_size))
    with mdnkernels.use_backend("native"):
        _, expected = patches_and_gradient(feature, index, kernel_size)
    assert gradient.stride() == expected.stride()
    assert torch.equal(gradient, expected)


def test_a_convolution_at_the_chosen_cells():
    feature, index = feature_and_index(2, 40, 8, 9, points=30, channels_last=True)
    weight, index = feature_and_index(5, 40, 3, 3, points=0)[0], index.clamp(min=0)
    (patches, _), _ = on_cuda(feature, index, 3)
    everywhere = functional.conv2d(feature, weight, padding=1).flatten(2)
    expected = everywhere.gather(2, index.unsqueeze(1).expand(-1, 5, -1)).transpose(1, 2)
    torch.testing.assert_close(functional.linear(patches, weight.flatten(1)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_an_empty_map_has_padding_alone(kernel_size):
    (patches, gradient), _ = on_cuda(*feature_and_index(2, 3, 0, 4, points=5), kernel_size)
    assert patches.shape == (2, 5, 3 * kernel_size**2)
    assert not patches.any()
    assert gradient.shape == (2, 3, 0, 4)


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_of_overlapping_windows_have_the_same_bits_in_every_order(channels_last):
    feature, index = feature_and_index(2, 48, 6, 7, points=60, channels_last=channels_last)
    (_, first), _ = on_cuda(feature, index, 3)
    for seed in range(1, 20):
        (_, gradient), _ = on_cuda(feature, index, 3, seed=seed)
        assert torch.equal(gradient, first)


def separate_objects(batch, size, step):
    """Return cells whose 3 x 3 windows neither overlap nor leave the map."""
    cells = torch.arange(size * size).view(size, size)[1:-1:step, 1:-1:step].flatten()
    return cells.expand(batch, -1).contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_windows_move_every_sector_once(dtype):
    feature, _ = feature_and_index(2, 64, 32, 32, points=0, dtype=dtype, channels_last=True)
    index = separate_objects(2, 32, 6)  # 25 an image
    (patches, gradient), report = on_cuda(feature, index, 3, count=True)
    gather, zeros, sums = report.launches
    moved = patches.nbytes / SECTOR
    assert gather.read.sectors <= 1.05 * moved
    assert gather.written.sectors == moved
    assert zeros.written.sectors == gradient.nbytes / SECTOR
    assert sums.written.sectors == moved
    # Beside the patches, each block reads its image's index, and its own element once more.
    assert sums.read.sectors <= 1.02 * moved + index.numel() * (2 + index.shape[1] * 8 / SECTOR)
    backward = zeros.written.sectors + sums.written.sectors + sums.read.sectors
    assert backward <= 1.05 * (gradient.nbytes / SECTOR + 2 * moved)


def test_planar_windows_read_each_row_once():
    """A row of a window is 12 bytes in one sector or two. At most one row in ten is cut between two warps."""
    (feature, _), index = feature_and_index(2, 64, 32, 32, points=0), separate_objects(2, 32, 6)
    (patches, _), report = on_cuda(feature, index, 3, count=True)
    first = torch.arange(1, 31, 6) - 1  # the columns where windows begin
    sectors_of_row = ((first + 2) * 4 // SECTOR - first * 4 // SECTOR + 1).double().mean().item()
    rows = index.numel() * 64 * 3
    gather = report.launches[0]
    assert rows * sectors_of_row <= gather.read.sectors <= 1.1 * rows * sectors_of_row
    assert gather.written.sectors == patches.nbytes / SECTOR


def test_a_window_that_a_gpu_cannot_number_is_refused():
    feature, index = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, dtype=torch.int64)
    message = "kernel_size must be at most 46340 on a GPU, got 46341"
    with cuda_on_cpu.running(), mdnkernels.use_backend("native"), pytest.raises(RuntimeError, match=message):
        mdnkernels.gather_patches(feature, index, 46341)
