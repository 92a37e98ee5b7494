"""topk_peaks: the CUDA kernels on the CPU where a map takes many tiles; tests/ops/test_matrix.py has the small maps."""

from __future__ import annotations

import math

import pytest
import torch

import mdnkernels
from tests import cuda_on_cpu
from tests.ops.table import OPS, Draw

SECTOR = 32
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def peaks_on_cuda(*arguments, seed=0, count=False, **options):
    with cuda_on_cpu.running(seed=seed, count=count) as report, mdnkernels.use_backend("native"):
        peaks = mdnkernels.topk_peaks(*arguments, **options)
    return peaks, report


def assert_is_eager(heatmap, k, seed=0, **options):
    peaks, _ = peaks_on_cuda(heatmap, k, seed=seed, **options)
    with mdnkernels.use_backend("eager"):
        expected = mdnkernels.topk_peaks(heatmap, k, **options)
    assert torch.equal(peaks.label, expected.label)
    assert torch.equal(peaks.index, expected.index)
    assert torch.equal(peaks.score, expected.score)


def random_map(batch, labels, *positions, levels=None, dtype=torch.float32, seed=0):
    draw = Draw(batch, positions, dtype, seed=seed)
    return OPS["topk_peaks"].arguments(draw, labels=labels, levels=levels)["heatmap"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("levels", [None, 2])
def test_tiles_of_rows_give_the_peaks_of_the_whole_map(levels, kernel_size, dtype):
    """Peaks lie on both sides of where two tiles meet. With two levels the ties of a score lie in many tiles."""
    assert_is_eager(random_map(2, 2, 200, 90, levels=levels, dtype=dtype), 70, kernel_size=kernel_size)


@pytest.mark.parametrize(
    ("shape", "kernel_size"),
    [
        ((1, 1, 3, 512), 3),  # the widest that threads walk down by columns, and one beyond
        ((1, 1, 70, 513), 3),
        ((1, 1, 2, 12000), 3),  # a row is larger than a tile
        ((1, 2, 120, 100), 61),  # the rows around a tile would be more than its own
        ((1, 1, 30, 20), 9999),  # every window is the whole map
        ((2, 1, 700, 1), 3),
    ],
)
def test_maps_and_windows_that_make_other_tiles(shape, kernel_size):
    assert_is_eager(random_map(*shape), 40, kernel_size=kernel_size)
    assert_is_eager(random_map(*shape, levels=1), 40, kernel_size=kernel_size)


@pytest.mark.parametrize("k", [1, 255, 256, 257, 1500, 30000])
def test_any_number_of_peaks(k):
    """The numbers are more than are ranked one by one, more than a block writes, and more than there are."""
    assert_is_eager(random_map(1, 2, 128, 100), k)
    assert_is_eager(random_map(1, 2, 128, 100, levels=1), k)


@pytest.mark.parametrize("shape", [(2, 0, 3, 4), (2, 3, 0, 4), (0, 3, 4, 4)])
def test_an_empty_map_has_padding_alone(shape):
    assert_is_eager(torch.empty(shape), 5)


def test_a_map_that_a_gpu_cannot_number_is_refused():
    heatmap = torch.zeros(1, 2**26, 1, 1, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="a heatmap of 1 x 67108864 x 1 x 1 is too large for a GPU: give it parts"):
        peaks_on_cuda(heatmap, 5)


def test_a_plateau_is_all_peaks_in_order():
    heatmap = torch.full((2, 2, 130, 100), 0.25)
    peaks, _ = peaks_on_cuda(heatmap, 13100)
    assert peaks.label[1].tolist() == [0] * 13000 + [1] * 100
    assert peaks.index[1].tolist() == [*range(13000), *range(100)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_that_floating_point_orders_in_its_own_way(dtype):
    """-0 ties with 0, infinities are scores, and subnormals differ. A NaN and its neighbours are no peaks."""
    smallest = torch.finfo(dtype).smallest_normal / 4
    row = [-0.0, 0.0, -0.0, math.inf, -math.inf, smallest, -smallest, 2 * smallest, 1.0, math.nan, 2.0, -1.0]
    heatmap = torch.full((1, 1, 1, 2 * len(row)), -math.inf, dtype=dtype)
    heatmap[0, 0, 0, ::2] = torch.tensor(row, dtype=dtype)
    peaks, _ = peaks_on_cuda(heatmap, 24, kernel_size=1)
    scores = heatmap.flatten().tolist()
    order = sorted((i for i, score in enumerate(scores) if score == score), key=lambda i: (-scores[i], i))
    assert peaks.index[0].tolist() == order + [-1] * (24 - len(order))
    assert peaks.score[0, : len(order)].tolist() == [scores[i] for i in order]
    assert_is_eager(heatmap, 24, kernel_size=3)


def test_the_order_of_threads_does_not_change_the_result():
    heatmap = random_map(2, 6, 128, 128, levels=8)
    with mdnkernels.use_backend("native"):
        expected = mdnkernels.topk_peaks(heatmap, 100)
    for seed in range(20):
        peaks, _ = peaks_on_cuda(heatmap, 100, seed=seed)
        for actual, other in zip(peaks, expected, strict=True):
            assert torch.equal(actual, other)


@pytest.mark.parametrize("k", [100, 1024, 3000])
def test_two_launches_whatever_is_asked_for(k):
    _, report = peaks_on_cuda(random_map(2, 3, 64, 64), k)
    assert [launch.kernel.split("<")[0].split("::")[-1] for launch in report.launches] == ["scan_tiles", "select_peaks"]


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1.02), (torch.bfloat16, 1.02), (torch.float64, 1.05)])
def test_the_map_is_read_once(dtype, bound):
    """A plane of 128 x 128 is two tiles of 64 rows, in float64 four of 32. Each tile reads a row of its neighbours. It
    writes 32 bits for each strip of 32 cells, and a key for each 8 strips."""
    heatmap = random_map(1, 4, 128, 128, dtype=dtype)
    _, report = peaks_on_cuda(heatmap, 100, count=True)
    scan, _ = report.launches
    assert scan.read.sectors <= bound * heatmap.nbytes / SECTOR
    key = 8 if dtype == torch.float64 else 4
    assert scan.written.bytes == heatmap.numel() * (4 / 32 + key / 256)


@pytest.mark.parametrize("levels", [None, 4])
def test_few_peaks_are_read_again(levels):
    """At most about k groups of 256 cells may have one of the best k, however many tie."""
    heatmap = random_map(1, 40, 128, 128, levels=levels)
    _, report = peaks_on_cuda(heatmap, 20, count=True)
    scan, select = report.launches
    keys = heatmap.numel() // 256
    assert select.read.bytes <= 12 * keys * 4 + 2 * 30 * 256 * 4
    assert select.read.distinct_sectors <= 0.1 * scan.read.distinct_sectors
