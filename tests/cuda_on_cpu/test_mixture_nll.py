"""mixture_nll: the CUDA kernels on the CPU against eager in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import mdnkernels
from tests import cuda_on_cpu
from tests.example_count import examples
from tests.ops.mixture_cases import NAMES, MixtureCase, loss_and_gradients, mixture_cases
from tests.ops.table.mixture import ACTIVATIONS, FAMILIES, is_discrete

ULP = {dtype: torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def on_cuda(arguments, others, dtype, seed=0):
    with cuda_on_cpu.running(seed=seed, count=False):
        return loss_and_gradients("native", arguments, others, dtype)


def assert_agrees(actual, arguments, others, dtype):
    """Compare loss and gradients with eager in float64, relative to the largest element of each tensor.

    The tolerance follows the largest loss: a posterior is an exponential of log densities, so their absolute rounding
    is its relative rounding.
    """
    expected = loss_and_gradients("eager", arguments, others, torch.float64)
    losses = loss_and_gradients("eager", arguments, {**others, "weight": None, "reduction": "none"}, torch.float64)[0]
    largest = losses.abs().max().item() if losses.numel() else 0.0
    computed = torch.promote_types(dtype, torch.float32)
    tolerance = ULP[computed] * max(80.0, 4 * largest)
    floor = max([1e-3, *(0.1 * e.abs().max().item() for e in expected[1:] if e.numel())])
    for name, a, e in zip(("loss", *NAMES)[: len(expected)], actual, expected, strict=True):
        assert a.dtype == (computed if name == "loss" else dtype)
        assert a.shape == e.shape
        if e.numel():
            size = max(e.abs().max().item(), floor)
            rounding = tolerance if name == "loss" else max(tolerance, 4 * ULP[dtype])
            error = (a.double() - e).abs().max().item()
            assert error <= rounding * size, f"{name}: error {error:.3g} of {size:.3g}"


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=mixture_cases(), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 2**31))
def test_agrees_with_float64_in_value_and_every_gradient(case, dtype, seed):
    case = dataclasses.replace(case, dtype=dtype)
    assume(case.has_clear_winners())
    arguments, others = case.make()
    assert_agrees(on_cuda(arguments, others, dtype, seed), arguments, others, dtype)


POSE = MixtureCase(dims=34, groups=17, positions=(8, 36))
DETECTION = MixtureCase(dims=2, groups=1, positions=(24, 24), weighted=False, kappa=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("case", [POSE, DETECTION, dataclasses.replace(POSE, points=21), MixtureCase(positions=())])
def test_shapes_of_every_task_in_every_dtype_and_layout(case, channels_last, dtype):
    arguments, others = dataclasses.replace(case, channels_last=channels_last, dtype=dtype).make()
    assert_agrees(on_cuda(arguments, others, dtype), arguments, others, dtype)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_every_option(family, activation, reduction):
    case = MixtureCase(family=family, scale_activation=activation, reduction=reduction, dtype=torch.float32)
    arguments, others = case.make()
    assert_agrees(on_cuda(arguments, others, torch.float32), arguments, others, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "view",
    [
        lambda value: value[..., ::2],
        lambda value: value[..., 1:],
        lambda value: value.transpose(2, 3),
        lambda value: value[:1].expand_as(value),
        lambda value: value[:, :, :1].expand_as(value),
    ],
    ids=["every second", "shifted", "transposed", "expanded batch", "expanded rows"],
)
@pytest.mark.parametrize("which", [(0, 1, 2, 3), (1,), (3,)], ids=["all", "loc", "target"])
def test_views_are_read_in_place(view, which, dtype):
    positions = (16, 16)
    whole, others = MixtureCase(positions=(16, 33), dtype=dtype).make()
    arguments = []
    for i, value in enumerate(whole):
        value = value.detach()
        of_view = view(value[..., :16]) if value[..., :16].shape == view(value[..., :16]).shape else view(value)
        arguments.append(of_view[..., :16] if i in which else value[..., :16].contiguous())
    others["mask"], others["weight"] = others["mask"][..., :16], others["weight"][..., :16]
    assert all(value.shape[2:] == positions for value in arguments)
    with cuda_on_cpu.running(count=False), mdnkernels.use_backend("native"):
        inputs = [value.detach().requires_grad_() for value in arguments]
        loss = mdnkernels.mixture_nll(*inputs, **others)
        gradients = torch.autograd.grad(loss * 0.5, inputs)
    assert_agrees([loss, *gradients], arguments, others, dtype)


def test_float32_companions_of_half_precision_keep_their_precision():
    arguments, others = MixtureCase(dtype=torch.float16, reduction="none").make()
    logits, loc, scale, _ = (value.detach() for value in arguments)
    target = torch.randn(2, 4, 7, 9) * 3
    others = {**others, "weight": others["weight"].float(), "dim_scale": others["dim_scale"].float()}
    with cuda_on_cpu.running(count=False), mdnkernels.use_backend("native"):
        loss = mdnkernels.mixture_nll(logits, loc, scale, target, **others)
    with mdnkernels.use_backend("eager"):
        expected = mdnkernels.mixture_nll(logits, loc, scale, target, **others)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_repeated_points_add_their_gradients_and_padding_adds_nothing(channels_last):
    case = MixtureCase(positions=(6, 5), points=9, channels_last=channels_last, dtype=torch.float32)
    arguments, others = case.make()
    others["index"] = torch.tensor([[3, 3, 3, -1, 29, 0, 3, -1, 29], [-1] * 9])
    actual = on_cuda(arguments, others, torch.float32)
    assert_agrees(actual, arguments, others, torch.float32)
    assert all(not gradient[1].any() for gradient in actual[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "case",
    [
        MixtureCase(components=50, dims=60, scales=60, positions=(9,)),
        MixtureCase(components=2, dims=1600, scales=1600, groups=1600, positions=(3, 3), channels_last=True),
        MixtureCase(components=70, dims=60, scales=1, groups=None, points=5, family="laplace"),
    ],
    ids=str,
)
def test_mixtures_too_large_for_shared_memory_use_a_workspace(case, dtype):
    arguments, others = dataclasses.replace(case, dtype=dtype).make()
    with cuda_on_cpu.running(count=False) as report:
        actual = loss_and_gradients("native", arguments, others, dtype)
    kernels = [launch.kernel for launch in report.launches]
    assert any("::staged_nll<" in kernel and kernel.endswith(", false>") for kernel in kernels)
    assert_agrees(actual, arguments, others, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("extreme", ["residual", "raw scale", "logit"])
def test_extreme_inputs_give_finite_losses_and_gradients(extreme, family, dtype):
    arguments, others = MixtureCase(family=family, groups=None, weighted=False, dtype=dtype, positions=(64,)).make()
    logits, loc, scale, target = (value.detach() for value in arguments)
    if extreme == "residual":
        target = target.sign() * torch.logspace(0, 6, 64, dtype=torch.float64).to(dtype)
    elif extreme == "raw scale":
        scale = scale.sign() * torch.logspace(0, 4, 64, dtype=torch.float64).to(dtype)
    else:
        logits = logits.sign() * torch.logspace(0, 4, 64, dtype=torch.float64).to(dtype)
    arguments = [value.requires_grad_() for value in (logits, loc, scale, target)]
    actual = on_cuda(arguments, others, dtype)
    assert all(value.isfinite().all() for value in actual)
    assert_agrees(actual, arguments, others, dtype)


@pytest.mark.parametrize("which", range(4))
def test_a_nan_gives_a_nan_loss_where_it_is_observed_and_none_where_not(which):
    arguments, others = MixtureCase(reduction="none", groups=1, dtype=torch.float32).make()
    arguments = [value.detach().clone() for value in arguments]
    arguments[which][:] = torch.nan
    loss, *gradients = on_cuda(arguments, others, torch.float32)
    observed = others["mask"][:, 0]
    assert loss[observed].isnan().all()
    assert (loss[~observed] == 0).all()
    for gradient in gradients:
        assert (gradient.movedim(1, -1)[~observed] == 0).all()


def test_parameters_of_what_nobody_observed_are_not_read():
    case = MixtureCase(batch=3, dims=34, groups=17, positions=(64, 64), weighted=False, dtype=torch.float32)
    arguments, others = case.make()
    others["mask"][:] = False
    others["mask"][0, 3, 0, :32] = True
    with cuda_on_cpu.running() as report:
        loss_and_gradients("native", arguments, others, torch.float32)
    [counts, kernel] = report.launches
    observed, shared = 32 * 4 * (3 + 3 * 34 + 3 * 2 + 34), 34 * 4 + 8 * counts.grid[0] + 4 * 32
    assert 32 * kernel.read.distinct_sectors <= others["mask"].numel() + 1.05 * observed + shared


@pytest.mark.parametrize(
    "case",
    [
        POSE,
        dataclasses.replace(POSE, channels_last=True),
        dataclasses.replace(DETECTION, channels_last=True, groups=2),
        MixtureCase(points=30),
        MixtureCase(components=50, dims=60, scales=60, positions=(9,)),
    ],
    ids=str,
)
def test_same_bits_in_any_order_of_blocks_and_threads(case):
    arguments, others = dataclasses.replace(case, dtype=torch.float32).make()
    first = on_cuda(arguments, others, torch.float32)
    for seed in range(1, 21):
        for a, e in zip(on_cuda(arguments, others, torch.float32, seed), first, strict=True):
            assert torch.equal(a, e)


def computing_launch(case, dtype):
    """Return the launch that computes a loss with all gradients, and the bytes of what it reads and writes."""
    arguments, others = dataclasses.replace(case, dtype=dtype).make()
    with cuda_on_cpu.running() as report, mdnkernels.use_backend("native"):
        loss = mdnkernels.mixture_nll(**dict(zip(NAMES, arguments, strict=False)), **others)
    inputs = [*arguments, *(value for value in others.values() if isinstance(value, torch.Tensor))]
    read = sum(value.numel() * value.element_size() for value in inputs)
    written = sum(value.numel() for value in arguments) * loss.element_size()
    assert len(report.launches) == 2
    return report.launches[1], read, written


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mask", [None, 17])
def test_dense_aligned_maps_move_each_sector_once(mask, channels_last, dtype):
    case = MixtureCase(
        batch=3,
        dims=34,
        groups=mask,
        positions=(64, 64),
        channels_last=channels_last,
        kappa=False,
        observed=1.0,
        weighted=mask is not None,
    )
    launch, read, written = computing_launch(case, dtype)
    assert 32 * launch.read.distinct_sectors <= 1.05 * read
    assert 32 * launch.written.sectors <= 1.05 * written
    # In a planar map each component reads the target, in a staged one a warp's neighbours may share a sector.
    target = 34 * 3 * 64 * 64 * dtype.itemsize
    assert 32 * launch.read.sectors <= 1.1 * read + 2 * target


def test_no_gradient_is_written_where_none_is_wanted():
    arguments, others = MixtureCase(dtype=torch.float32).make()
    with cuda_on_cpu.running() as report, torch.no_grad(), mdnkernels.use_backend("native"):
        mdnkernels.mixture_nll(*arguments, **others)
    kernel = report.launches[-1]
    assert kernel.written.sectors == kernel.grid[0] + 1  # the blocks' parts of the loss, and the loss


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "case",
    [
        POSE,
        dataclasses.replace(POSE, channels_last=True, block=2),
        dataclasses.replace(DETECTION, groups=None),
        MixtureCase(points=30, objective={"assigned": True}),
        MixtureCase(components=5, dims=1, scales=1, groups=None, positions=(), batch=300),
    ],
    ids=str,
)
def test_a_loss_takes_two_launches(case, reduction):
    arguments, others = dataclasses.replace(case, reduction=reduction, dtype=torch.float32).make()
    with cuda_on_cpu.running(count=False) as report, mdnkernels.use_backend("native"):
        mdnkernels.mixture_nll(**dict(zip(NAMES, arguments, strict=False)), **others)
    assert len(report.launches) == 2


ROWS = MixtureCase(batch=700, components=5, dims=1, scales=1, groups=None, positions=())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"groups": 1, "kappa": False},
        {"components": 2, "objective": {"temperature": 3.0}, "scale_activation": "softplus", "min_scale": 1e-3},
        {"components": 3, "objective": {"assigned": True, "beta": 0.5}, "reduction": "none"},
        {"components": 4, "objective": {"assign": "best"}, "scale_activation": "exp", "min_scale": 0.0},
        {"components": 8, "batch": 33, "reduction": "sum", "scale_activation": "identity"},
    ],
    ids=str,
)
def test_rows_of_one_dimension(change, family):
    case = dataclasses.replace(ROWS, **{"family": family, "dtype": torch.float32, **change})
    arguments, others = case.make()
    with cuda_on_cpu.running(seed=3, count=False) as report:
        actual = loss_and_gradients("native", arguments, others, torch.float32)
    assert f"::number_rows_nll<{case.components}>" in report.launches[-1].kernel
    assert_agrees(actual, arguments, others, torch.float32)


def test_rows_move_each_sector_once():
    launch, read, written = computing_launch(dataclasses.replace(ROWS, kappa=False, batch=2048), torch.float32)
    assert 32 * launch.read.distinct_sectors <= 1.01 * read
    assert 32 * launch.written.sectors <= 1.01 * written


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"scale_order": "blocks", "scales": 3, "objective": {"temperature": 0.5}},
        {"components": 1, "scales": 6, "objective": {"assign": "best"}, "reduction": "none"},
        {"components": 9, "scales": 1, "kappa": False, "groups": None, "objective": {"beta": 0.5}},
        {"components": 2, "groups": 6, "observed": 0.1, "objective": {"assigned": True}, "reduction": "sum"},
        {"block": 2, "kappa": False},
        {"block": 2, "kappa": False, "shared": True, "objective": {"beta": 0.5}},
        {"block": 2, "kappa": False, "scales": 6, "scale_order": "blocks", "groups": None, "weighted": False},
        {"block": 2, "kappa": False, "scales": 1, "components": 9, "shared": True, "groups": None},
        {"block": 2, "kappa": False, "dims": 8, "groups": 4, "scale_order": "blocks", "observed": 0.1},
    ],
    ids=str,
)
def test_planar_maps_with_every_option(change, family):
    case = MixtureCase(dims=6, groups=3, positions=(12, 23), family=family, dtype=torch.float32)
    case = dataclasses.replace(case, **change)
    if is_discrete(family) and case.block > 1:
        pytest.skip("not defined for a discrete target")
    arguments, others = case.make()
    with cuda_on_cpu.running(seed=4, count=False) as report:
        actual = loss_and_gradients("native", arguments, others, torch.float32)
    assert "::planar_nll<" in report.launches[-1].kernel
    assert_agrees(actual, arguments, others, torch.float32)


SMALL = MixtureCase(batch=3, dims=2, groups=1, positions=(10, 14), dtype=torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"block": 2},
        {"block": 2, "components": 2, "kappa": False, "weighted": False, "scale_activation": "softplus"},
        {"block": 2, "components": 1, "objective": {"beta": 0.5, "assigned": True}, "reduction": "sum"},
        {"components": 1, "groups": None, "objective": {"gradient": "natural"}, "scale_activation": "exp"},
        {"components": 2, "objective": {"assigned": True, "beta": 0.5}, "reduction": "none"},
        {"components": 3, "dims": 1, "scales": 1, "objective": {"temperature": 3.0}, "positions": (256,)},
        {"components": 2, "dims": 1, "scales": 1, "objective": {"assign": "best"}, "min_scale": 0.0},
    ],
    ids=str,
)
def test_small_planar_maps_stay_in_registers(change, family):
    case = dataclasses.replace(SMALL, family=family, **change)
    if is_discrete(family) and (case.block > 1 or "gradient" in case.objective):
        pytest.skip("not defined for a discrete target")
    arguments, others = case.make()
    with cuda_on_cpu.running(seed=5, count=False) as report:
        actual = loss_and_gradients("native", arguments, others, torch.float32)
    name = f"::small_maps_nll<{case.components}, {case.dims}, {str(case.block == 2).lower()}>"
    assert name in report.launches[-1].kernel
    assert_agrees(actual, arguments, others, torch.float32)


@pytest.mark.parametrize("block", [1, 2])
def test_small_planar_maps_move_each_sector_once(block):
    case = dataclasses.replace(SMALL, positions=(64, 64), block=block, kappa=False, observed=1.0)
    launch, read, written = computing_launch(case, torch.float32)
    assert 32 * launch.read.distinct_sectors <= 1.05 * read
    assert 32 * launch.written.sectors <= 1.05 * written


def test_nothing_to_do_gives_zero():
    arguments, others = MixtureCase(batch=0, positions=(8, 8), dtype=torch.float32).make()
    loss, *gradients = on_cuda(arguments, others, torch.float32)
    assert loss == 0
    assert all(gradient.numel() == 0 for gradient in gradients)
