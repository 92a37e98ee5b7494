"""mixture_mode: the CUDA kernels on the CPU against eager in float64."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mdnkernels
from tests import cuda_on_cpu
from tests.example_count import examples
from tests.ops.agreement import outputs_of
from tests.ops.table import OPS, Draw
from tests.ops.table.mixture import ACTIVATIONS

mixture_mode = functools.partial(mdnkernels.mixture_mode, scale_order="interleaved")
SELECTIONS = ["weight", "density", "mean"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def mixture(components, dims, scales, shape=(2, 9, 17), dtype=torch.float32, channels_last=False, seed=0):
    batch, *positions = shape
    draw = Draw(batch, tuple(positions), dtype, "channels_last" if channels_last else "contiguous", seed=seed)
    drawn = OPS["mixture_mode"].arguments(draw, components=components, dims=dims, scales=scales)
    return [drawn[name] for name in ("logits", "loc", "scale")]


def mode_on_cuda(*arguments, seed=0, count=False, **options):
    with cuda_on_cpu.running(seed=seed, count=count) as report, mdnkernels.use_backend("native"):
        mode = mixture_mode(*arguments, **options)
    return mode, report


def assert_agrees(mode, arguments, options, dtype):
    with mdnkernels.use_backend("eager"):
        expected = mixture_mode(*(None if a is None else a.double() for a in arguments), **options)
    tolerance = 4 * torch.finfo(dtype).eps
    assert torch.equal(mode.component, expected.component)
    for a, e in ((mode.loc, expected.loc), (mode.scale, expected.scale), (mode.weight, expected.weight)):
        if e is None:
            assert a is None
            continue
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("select", SELECTIONS)
@pytest.mark.parametrize("components", [None, [3, 1]])
def test_every_selection_in_every_dtype_and_layout(select, components, channels_last, dtype):
    arguments = mixture(4, 6, 2, dtype=dtype, channels_last=channels_last, shape=(2, 9, 24))
    options = {"select": select, "components": components, "min_scale": 0.1}
    mode, _ = mode_on_cuda(*arguments, **options)
    assert_agrees(mode, arguments, options, dtype)
    assert mode.loc.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_shapes(data):
    components, dims = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    scales = data.draw(st.sampled_from([d for d in range(1, dims + 1) if dims % d == 0]))
    shape = (data.draw(st.integers(0, 3)), data.draw(st.integers(1, 12)), data.draw(st.integers(1, 40)))
    logits, loc, scale = mixture(components, dims, scales, shape, channels_last=data.draw(st.booleans()))
    options = {
        "select": data.draw(st.sampled_from(SELECTIONS)),
        "scale_activation": data.draw(st.sampled_from(["elu", "softplus", "exp"])),
        "components": data.draw(st.one_of(st.none(), st.sets(st.integers(0, components - 1), min_size=1))),
    }
    if data.draw(st.booleans()):
        points = data.draw(st.integers(0, 20))
        options["index"] = torch.randint(-1, shape[1] * shape[2], (shape[0], points))
    if options["select"] != "density" and data.draw(st.booleans()):
        scale = None
    mode, _ = mode_on_cuda(logits, loc, scale, seed=data.draw(st.integers(0, 100)), **options)
    assert_agrees(mode, (logits, loc, scale), options, torch.float32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation):
    logits, loc, scale = mixture(3, 4, 4)
    options = {"select": "density", "scale_activation": activation}
    mode, _ = mode_on_cuda(logits, loc, scale.abs() + 0.1, **options)
    assert_agrees(mode, (logits, loc, scale.abs() + 0.1), options, torch.float32)


@pytest.mark.parametrize("select", SELECTIONS)
def test_views_are_read_in_place(select):
    logits, loc, scale = mixture(3, 4, 2, shape=(2, 16, 33))
    for arguments in (
        (logits[..., ::2], loc[..., ::2], scale[..., ::2]),
        (logits[..., 1:], loc[..., :-1].contiguous(), scale[..., 1:]),
        (logits.transpose(2, 3), loc.transpose(2, 3).contiguous(), scale.transpose(2, 3)),
    ):
        mode, _ = mode_on_cuda(*arguments, select=select)
        assert_agrees(mode, arguments, {"select": select}, torch.float32)


@pytest.mark.parametrize("select", SELECTIONS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_padding_is_empty_and_an_index_of_padding_alone_reads_nothing(select, channels_last):
    arguments = mixture(3, 4, 2, channels_last=channels_last)
    index = torch.tensor([[0, 5, -1, 5], [-1] * 4])
    mode, _ = mode_on_cuda(*arguments, select=select, index=index)
    assert_agrees(mode, arguments, {"select": select, "index": index}, torch.float32)
    empty = [value[..., :0].contiguous() for value in arguments]
    mode, _ = mode_on_cuda(*empty, select=select, index=torch.full((2, 3), -1))
    assert (mode.component == -1).all()
    assert not mode.loc.any()


@pytest.mark.parametrize("components", [None, [1, 2]])
def test_the_first_nan_score_is_the_largest_and_equal_scores_give_the_lowest(components):
    logits, loc, _ = mixture(3, 2, 1, shape=(1, 1, 4))
    logits[..., 0] = 1.0
    logits[:, 2, :, 1] = torch.nan
    mode, _ = mode_on_cuda(logits, loc, components=components)
    lowest = 0 if components is None else components[0]
    assert mode.component[0, 0, :2].tolist() == [lowest, 2]
    assert mode.weight[0, 0, 1].isnan()


@pytest.mark.parametrize("select", SELECTIONS)
def test_mixtures_too_large_for_shared_memory_use_a_workspace(select):
    arguments = list(mixture(1800, 3, 3, shape=(1, 2, 3)))
    logits = torch.cat([value[:, :1700] for value in (arguments[0], arguments[0] - 1)], 1)  # no two components alike
    loc, scale = (torch.cat([value[:, : 1700 * 3]] * 2, 1) for value in arguments[1:])
    chosen = [3000, 5, 2100]  # bits in two launches' words
    options = {"select": select, "components": chosen}
    mode, report = mode_on_cuda(logits, loc, scale, **options)
    assert_agrees(mode, (logits, loc, scale), options, torch.float32)
    assert any(", false>" in launch.kernel for launch in report.launches)


@pytest.mark.parametrize("select", SELECTIONS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_same_bits_in_any_order_of_blocks_and_threads(select, channels_last):
    arguments = mixture(3, 34, 2, channels_last=channels_last)
    first, _ = mode_on_cuda(*arguments, select=select, components=[2, 0])
    for seed in range(1, 21):
        again, _ = mode_on_cuda(*arguments, select=select, components=[2, 0], seed=seed)
        assert all(torch.equal(a, e) for a, e in zip(outputs_of(again), outputs_of(first), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("select", SELECTIONS)
def test_dense_aligned_maps_move_each_sector_once(select, channels_last, dtype):
    """Neighbouring cells choose alike here. Otherwise their sectors would hold what is not wanted."""
    logits, loc, scale = mixture(3, 32, 16, shape=(3, 64, 64), dtype=dtype, channels_last=channels_last)
    bands = torch.arange(64).div(22, rounding_mode="floor")  # of rows
    for m in range(3):
        logits[:, m, bands == m] += 200
    mode, report = mode_on_cuda(logits, loc, scale, select=select, count=True)
    assert (mode.component == bands[:, None]).all()
    wanted = {"weight": (1 / 3, 1 / 3), "density": (1 / 3, 1), "mean": (1, 1)}[select]  # of loc and scale
    read = logits.numel() + loc.numel() * wanted[0] + scale.numel() * wanted[1]
    written = sum(value.numel() * value.element_size() for value in mode[:4])
    assert 32 * report.sectors_read / (read * loc.element_size()) <= 1.05
    assert 32 * report.sectors_written / written <= 1.05
