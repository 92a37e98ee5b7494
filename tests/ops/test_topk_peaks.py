from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mdnkernels
from mdnkernels import topk_peaks
from tests.example_count import examples

BACKENDS = ["native", "eager"]


def brute_force(heatmap: Tensor, k: int, kernel_size: int) -> list[list[tuple[float, int, int]]]:
    """Return the peaks (value, label, index) of each image by the definition, one cell at a time."""
    batch, labels, height, width = heatmap.shape
    reach = kernel_size // 2
    images = []
    for b in range(batch):
        peaks = []
        for label in range(labels):
            plane = heatmap[b, label].tolist()
            for y in range(height):
                for x in range(width):
                    window = [
                        plane[v][u]
                        for v in range(max(y - reach, 0), min(y + reach + 1, height))
                        for u in range(max(x - reach, 0), min(x + reach + 1, width))
                    ]
                    if not any(math.isnan(value) for value in window) and plane[y][x] >= max(window):
                        peaks.append((plane[y][x], label, y * width + x))
        peaks.sort(key=lambda peak: (-peak[0], peak[1], peak[2]))
        images.append(peaks[:k])
    return images


def assert_is_brute_force(heatmap: Tensor, k: int, kernel_size: int, backend: str) -> None:
    with mdnkernels.use_backend(backend):
        score, label, index = topk_peaks(heatmap, k, kernel_size=kernel_size)
    assert score.shape == label.shape == index.shape == (heatmap.shape[0], k)
    assert score.dtype == heatmap.dtype
    for b, peaks in enumerate(brute_force(heatmap, k, kernel_size)):
        missing = k - len(peaks)
        assert score[b].tolist() == [peak[0] for peak in peaks] + [0.0] * missing
        assert label[b].tolist() == [peak[1] for peak in peaks] + [-1] * missing
        assert index[b].tolist() == [peak[2] for peak in peaks] + [-1] * missing


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=examples(150), deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 70)),
    k=st.integers(1, 60),
    kernel_size=st.sampled_from([1, 3, 5]),
    levels=st.sampled_from([2, 5, 10_000]),
    special=st.sampled_from([None, math.nan, math.inf, -math.inf]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    layout=st.sampled_from(["contiguous", "channels_last", "sliced"]),
    seed=st.integers(0, 2**31),
)
def test_peaks_are_those_of_the_definition(backend, shape, k, kernel_size, levels, special, dtype, layout, seed):
    """Few levels make plateaus and ties; negative values and -inf must still beat padding."""
    generator = torch.Generator().manual_seed(seed)
    heatmap = (torch.randint(0, levels, shape, generator=generator) / levels - 0.3).to(dtype)
    if special is not None:
        heatmap[torch.rand(shape, generator=generator) < 0.05] = special
    if layout == "channels_last":
        heatmap = heatmap.contiguous(memory_format=torch.channels_last)
    elif layout == "sliced":
        heatmap = torch.nn.functional.pad(heatmap, (1, 2, 3, 0))[:, :, 3:, 1:-2]
    assert_is_brute_force(heatmap, k, kernel_size, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_map_without_any_variation_is_all_peaks_in_order(backend):
    with mdnkernels.use_backend(backend):
        peaks = topk_peaks(torch.full((1, 2, 3, 3), 0.5), 12)
    assert peaks.label[0].tolist() == [0] * 9 + [1] * 3
    assert peaks.index[0].tolist() == [*range(9), 0, 1, 2]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_logits_compare_raw_and_return_sigmoids(backend, dtype):
    # sigmoid rounds both 40 and 41 to 1: compared as scores they would be a plateau of two peaks.
    heatmap = torch.full((1, 1, 1, 5), -3.0, dtype=dtype)
    heatmap[0, 0, 0, 1:3] = torch.tensor([40.0, 41.0])
    with mdnkernels.use_backend(backend):
        score, _, index = topk_peaks(heatmap, 3, logits=True)
    assert index[0].tolist() == [2, 4, -1]
    expected = torch.tensor([1.0, 1 / (1 + math.exp(3.0)), 0.0], dtype=torch.float64)
    torch.testing.assert_close(score[0].double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_native_finds_the_same_peaks_with_any_number_of_threads(threads):
    heatmap = torch.rand(2, 8, 96, 96, generator=torch.Generator().manual_seed(1)).mul(50).round()
    with mdnkernels.use_backend("eager"):
        expected = topk_peaks(heatmap, 100)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with mdnkernels.use_backend("native"):
            actual = topk_peaks(heatmap, 100)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def test_peaks_carry_no_gradient():
    assert not topk_peaks(torch.rand(1, 1, 4, 4, requires_grad=True), 2).score.requires_grad


def test_native_op_passes_opcheck():
    torch.library.opcheck(torch.ops.mdnkernels.topk_peaks.default, (torch.rand(2, 3, 8, 9), 7, 3, True))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "word"),
    [
        ((torch.rand(3, 4, 4), 5), {}, ValueError, "heatmap"),
        ((torch.ones(1, 1, 4, 4, dtype=torch.int64), 5), {}, TypeError, "heatmap"),
        (("map", 5), {}, TypeError, "heatmap"),
        ((torch.rand(1, 1, 4, 4), 0), {}, ValueError, "k must be at least 1"),
        ((torch.rand(1, 1, 4, 4), 2.0), {}, TypeError, "k must be an int"),
        ((torch.rand(1, 1, 4, 4), 5), {"kernel_size": 2}, ValueError, "kernel_size must be odd"),
        ((torch.rand(1, 1, 4, 4), 5), {"kernel_size": -1}, ValueError, "kernel_size"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, options, error, word):
    with pytest.raises(error, match=word):
        topk_peaks(*arguments, **options)
