"""The ops on Triton, interpreted, against eager in float64."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import mdnkernels
from mdnkernels import backends
from tests.ops import reference
from tests.ops import test_center_focal_loss as center_focal
from tests.ops.agreement import outputs_of
from tests.ops.mixture_cases import MixtureCase, loss_and_gradients
from tests.ops.table import laid_out
from tests.ops.table.mixture import FAMILIES
from tests.ops.test_center_focal_loss import drawn
from tests.ops.test_gather_patches import patches_and_gradient
from tests.ops.test_heatmap_focal_loss import LAYOUTS, loss_and_gradient, random_maps
from tests.ops.test_mixture_nll import assert_close
from tests.ops.test_splat_gaussians import random_objects
from tests.ops.test_topk_peaks import assert_is_brute_force

DTYPES = [
    torch.float32,
    torch.bfloat16,
    pytest.param(torch.float64, marks=pytest.mark.slow),
    pytest.param(torch.float16, marks=pytest.mark.slow),
]
pytestmark = pytest.mark.filterwarnings(
    "ignore:All-NaN slice:RuntimeWarning",
    "ignore:overflow:RuntimeWarning",
    "ignore:invalid value:RuntimeWarning",
    "ignore:divide by zero:RuntimeWarning",
)

MIXTURES = [
    MixtureCase(),
    MixtureCase(positions=(67,), family="laplace", reduction="none"),
    MixtureCase(channels_last=True, scale_activation="softplus", scales=1, groups=4),
    MixtureCase(scale_activation="exp", scales=4, groups=None, weighted=False, kappa=False),
    MixtureCase(scale_activation="identity", components=1, reduction="sum", groups=1),
    MixtureCase(points=11, reduction="none"),
    MixtureCase(points=5, weighted=False, groups=None, channels_last=True),
    MixtureCase(positions=(), components=5, dims=1, scales=1, groups=None),
    MixtureCase(dims=34, groups=17, kappa=False, batch=1, positions=(5, 9)),
    MixtureCase(dims=34, groups=17, positions=(200,), batch=1, observed=0.02),  # more than a tile, most not observed
    MixtureCase(dims=130, groups=10, positions=(5,), kappa=False, batch=1),  # too many residuals for registers
    MixtureCase(min_scale=0.0, components=2, dims=3, scales=3, groups=3),
    MixtureCase(positions=(0,)),
    MixtureCase(batch=0, positions=(3, 3)),
    MixtureCase(points=0),
]


# In float64 an ordinary case, one by index, and one of more dimensions than stay in registers.
QUICK_IN_FLOAT64 = (MIXTURES[0], MIXTURES[5], MixtureCase(dims=68, groups=17, positions=(5,), kappa=False, batch=1))


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *((case, torch.float32) for case in MIXTURES),
        *((case, torch.float64) for case in QUICK_IN_FLOAT64),
        *(
            pytest.param(case, torch.float64, marks=pytest.mark.slow)
            for case in MIXTURES
            if case not in QUICK_IN_FLOAT64
        ),
    ],
    ids=str,
)
def test_mixture_nll_agrees_in_value_and_every_gradient(case, dtype):
    arguments, others = dataclasses.replace(case, dtype=dtype).make()
    expected = loss_and_gradients("eager", arguments, others, torch.float64)
    actual = loss_and_gradients("triton", arguments, others, dtype)
    assert_close(actual, expected, 1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        (MixtureCase(), torch.bfloat16),
        (MixtureCase(points=11), torch.float16),
        pytest.param(MixtureCase(), torch.float16, marks=pytest.mark.slow),
        pytest.param(MixtureCase(points=11), torch.bfloat16, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_half_precision_is_computed_in_float32(case, dtype):
    arguments, others = dataclasses.replace(case, dtype=dtype).make()
    expected = loss_and_gradients("eager", arguments, others, torch.float64)
    actual = loss_and_gradients("triton", arguments, others, dtype)
    assert actual[0].dtype == torch.float32
    torch.testing.assert_close(actual[0].double(), expected[0], rtol=1e-5, atol=1e-6)
    step = 4 * torch.finfo(dtype).eps
    for a, e in zip(actual[1:], expected[1:], strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), e, rtol=step, atol=step * e.abs().max().item())


def test_slices_of_a_larger_map_are_read_in_place():
    arguments, others = MixtureCase(positions=(6, 8), groups=None, weighted=False).make()
    with torch.no_grad():
        sliced = [laid_out(value, "sliced") for value in arguments]
    expected = loss_and_gradients("eager", [value.contiguous() for value in sliced], others, torch.float64)
    assert_close(loss_and_gradients("triton", sliced, others, torch.float64), expected, 1e-12)


@pytest.mark.parametrize(
    "case",
    [
        MixtureCase(reduction="none"),
        MixtureCase(reduction="none", scale_activation="identity", positions=(13,), observed=0.3),
        MixtureCase(reduction="none", scale_activation="identity", positions=(13,), dims=68),  # read again
        MixtureCase(points=8),
    ],
    ids=str,
)
def test_nothing_observed_gives_exactly_zero_whatever_the_inputs_hold(case):
    arguments, others = dataclasses.replace(case, dtype=torch.float32).make()
    hidden = ~others["mask"].any(1)
    if case.points is not None:
        hidden |= others["index"] < 0
    assert hidden.any()
    with torch.no_grad():
        arguments[3][hidden.unsqueeze(1).expand_as(arguments[3])] = math.nan
        if case.points is None:
            for value in arguments:
                value[hidden.unsqueeze(1).expand_as(value)] = math.nan
    loss, *gradients = loss_and_gradients("triton", arguments, others, torch.float32)
    assert all(value.isfinite().all() for value in (loss, *gradients))
    if case.points is None:
        assert (loss[hidden] == 0).all()
        assert all((value[hidden.unsqueeze(1).expand_as(value)] == 0).all() for value in gradients)


@pytest.mark.parametrize(
    ("activation", "raw", "dims"),
    [
        ("exp", 200.0, 4),
        pytest.param("identity", 0.0, 4, marks=pytest.mark.slow),
        pytest.param("elu", math.nan, 4, marks=pytest.mark.slow),
        pytest.param("elu", math.nan, 68, marks=pytest.mark.slow),
    ],
)
def test_a_scale_whose_dimensions_are_all_unobserved_leaves_the_density(activation, raw, dims):
    """With 4 dimensions the residuals stay in registers, with 68 they are read again."""
    case = MixtureCase(
        dtype=torch.float32, batch=1, dims=dims, groups=4, scales=4, scale_activation=activation, positions=(5,)
    )
    arguments, others = case.make()
    others["mask"][:] = True
    seen = torch.arange(dims) % 4 != 1
    others["mask"] = (others["mask"][:, :1] & seen.view(1, -1, 1)).contiguous()
    expected = loss_and_gradients("triton", arguments, others, torch.float32)
    with torch.no_grad():
        arguments[2][:, 1 :: case.scales] = raw
    actual = loss_and_gradients("triton", arguments, others, torch.float32)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_over_nothing_is_zero_with_zero_gradients(reduction):
    arguments, others = MixtureCase(reduction=reduction).make()
    others["mask"] = torch.zeros_like(others["mask"])
    for value in loss_and_gradients("triton", arguments, others, torch.float64):
        assert (value == 0).all()


@pytest.mark.parametrize("which", range(4))
def test_a_nan_input_gives_a_nan_loss(which):
    arguments, others = MixtureCase(groups=None, dtype=torch.float32).make()
    with torch.no_grad():
        arguments[which][1, 0, 3, 3] = math.nan
    with mdnkernels.use_backend("triton"):
        assert mdnkernels.mixture_nll(*arguments, **others).isnan()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_are_finite_and_agree_with_extended_precision(family, dtype):
    """Residuals of 1e6 sigma, logits of +-1e4, raw scales of -1e4, one component dominating, all equal."""
    logits = torch.tensor([[0.0, 1e4, -1e4, 3.0], [0.0, -1e4, 1e4, 3.0]], dtype=dtype).unsqueeze(0)
    loc = torch.tensor([[0.0, 0.0, 1e6, 2.0], [1e6, 0.0, -1e6, 2.0]], dtype=dtype).unsqueeze(0)
    scale = torch.tensor([[-1e4, 0.0, -50.0, 1.0], [-1e4, 1.0, -1e4, 1.0]], dtype=dtype).unsqueeze(0)
    target = torch.tensor([[1e6, 1.0, -1e6, 2.0]], dtype=dtype).unsqueeze(0)
    arguments = [value.requires_grad_() for value in (logits, loc, scale, target)]
    options = {"family": family, "scale_activation": "elu", "min_scale": 1.0}
    with mdnkernels.use_backend("triton"):
        loss = mdnkernels.mixture_nll(*arguments, **options, reduction="none")
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss.sum(), arguments))
    expected = reference.mixture_nll(*(value.detach() for value in arguments), **options)[0]
    for actual, value in zip(loss[0].tolist(), expected, strict=True):
        assert actual == pytest.approx(float(value), rel=1e-6 if dtype == torch.float32 else 1e-12)


def mode_and_gradients(backend: str, maps: list[Tensor], **options) -> list[Tensor]:
    leaves = [value.detach().requires_grad_() for value in maps]
    with mdnkernels.use_backend(backend):
        mode = mdnkernels.mixture_mode(*leaves, scale_order="interleaved", **options)
    total = sum((i + 1) * value.sum() for i, value in enumerate((mode.loc, mode.scale, mode.weight)))
    return [*outputs_of(mode), *torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("select", ["weight", "density", "mean"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("layout", "options"),
    [
        ("contiguous", {}),
        ("channels_last", {"scale_activation": "softplus", "components": [3, 1]}),
        ("sliced", {"scale_activation": "exp", "index": torch.tensor([[0, 14, -1, 7], [7, 7, 8, -1]])}),
    ],
    ids=["contiguous", "channels_last", "indexed"],
)
def test_mixture_mode_and_its_gradients(select, dtype, layout, options):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, k * 4, 9, 8, generator=generator, dtype=torch.float64) for k in (1, 6, 2)]
    maps = [laid_out(value.to(dtype), layout) for value in maps]
    actual = mode_and_gradients("triton", maps, select=select, **options)
    expected = mode_and_gradients("eager", [value.double() for value in maps], select=select, **options)
    assert torch.equal(actual[2], expected[2])
    step = max((16 if dtype.itemsize > 2 else 4) * torch.finfo(dtype).eps, 1e-12)  # sums over components and dimensions
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.double(), e.double(), rtol=step, atol=step * e.double().abs().max().item())


def test_the_first_nan_score_is_the_largest_and_equal_ones_give_the_lowest():
    logits, loc = torch.randn(1, 3, 5), torch.arange(3.0).view(1, 3, 1).expand(1, 3, 5)
    scale = torch.ones(1, 3, 5)
    with mdnkernels.use_backend("triton"):
        assert (mdnkernels.mixture_mode(torch.zeros(1, 3, 5), loc).component == 0).all()
        scale[:, 1] = math.nan
        assert (mdnkernels.mixture_mode(logits, loc, scale, select="density").component == 1).all()
        logits[:, 2] = math.nan
        mode = mdnkernels.mixture_mode(logits, loc, components=[1, 2])
    assert (mode.component == 2).all()
    assert mode.weight.isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "k", "kernel_size", "layout"),
    [
        ((2, 3, 9, 7), 5, 3, "contiguous"),
        ((1, 2, 5, 70), 60, 5, "channels_last"),
        ((2, 1, 6, 9), 100, 1, "sliced"),
        ((1, 3, 64, 130), 2, 3, "contiguous"),  # more chunks than peaks: few of them reach the floor
        ((1, 1, 100, 210), 1000, 1, "contiguous"),  # more candidates than are seen at once
        ((1, 2, 4, 3), 2000, 11, "contiguous"),  # too many to select on chip
        ((0, 2, 3, 3), 4, 3, "contiguous"),
        ((1, 2, 0, 3), 4, 3, "contiguous"),
    ],
)
@pytest.mark.parametrize("special", [None, math.nan, -math.inf])
def test_peaks_are_those_of_the_definition(dtype, shape, k, kernel_size, layout, special):
    """Few levels make plateaus and ties."""
    generator = torch.Generator().manual_seed(0)
    heatmap = (torch.randint(-2, 3, shape, generator=generator) / 4).to(dtype)
    if special is not None:
        heatmap[torch.rand(shape, generator=generator) < 0.05] = special
    heatmap = laid_out(heatmap, layout) if layout != "contiguous" else heatmap
    assert_is_brute_force(heatmap, k, kernel_size, "triton")


def test_logits_compare_raw_and_return_sigmoids():
    heatmap = torch.tensor([-3.0, 40.0, 41.0, -3.0, -3.0]).view(1, 1, 1, 5)
    with mdnkernels.use_backend("triton"):
        score, _, index = mdnkernels.topk_peaks(heatmap, 3, logits=True)
    assert index[0].tolist() == [2, 4, -1]
    torch.testing.assert_close(score[0], torch.tensor([1.0, 1 / (1 + math.exp(3.0)), 0.0]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "expanded"])
def test_patches_are_the_very_bits_and_gradients_are_summed_in_at_least_float32(dtype, layout):
    generator = torch.Generator().manual_seed(0)
    kernel_size = 5 if layout == "sliced" else 3
    feature = laid_out(torch.randn(2, 5, 4, 7, generator=generator).to(dtype), layout)
    index = torch.randint(-1, feature.shape[2] * feature.shape[3], (2, 8), generator=generator)
    grad = torch.randn(2, 8, 5 * kernel_size**2, generator=generator).to(dtype)
    patches, gradient = patches_and_gradient("triton", feature, index, kernel_size, grad)
    exact, sums = patches_and_gradient("eager", feature.double(), index, kernel_size, grad.double())
    assert torch.equal(patches.double(), exact)
    assert gradient.dtype == dtype
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), sums, rtol=step, atol=8 * min(step, 2e-6))


@pytest.mark.parametrize(("shape", "points"), [((0, 2, 3, 3), 2), ((1, 0, 3, 3), 2), ((2, 3, 1, 1), 0)])
def test_empty_patches(shape, points):
    index = torch.zeros(shape[0], points, dtype=torch.int64)
    grad = torch.zeros(shape[0], points, shape[1] * 9)
    patches, gradient = patches_and_gradient("triton", torch.randn(*shape), index, 3, grad)
    assert patches.shape == grad.shape
    assert (gradient == 0).all()


def test_gather_patches_is_differentiable_twice():
    feature = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[0, 11, -1, 5, 5]])
    with mdnkernels.use_backend("triton"):
        assert torch.autograd.gradgradcheck(
            lambda value: mdnkernels.gather_patches(value, index), feature, fast_mode=True
        )


@pytest.mark.parametrize("powers", [(2.0, 4.0), (0.0, 2.0), (1.5, 3.5), (2.0, 0.0)])
@pytest.mark.parametrize(
    ("dtypes", "shape", "layouts"),
    [
        ((torch.float32, torch.float32), (2, 3, 19, 33), ("contiguous", "contiguous")),
        ((torch.float64, torch.float64), (2, 3, 5, 7), ("channels_last", "channels_last")),
        ((torch.bfloat16, torch.float32), (1, 1, 3, 5), ("sliced", "transposed")),
        ((torch.float16, torch.float16), (1, 0, 3, 5), ("contiguous", "contiguous")),
    ],
    ids=str,
)
def test_focal_loss_and_its_gradient(powers, dtypes, shape, layouts):
    maps = random_maps(shape, 0, torch.float64)
    logits, target = (LAYOUTS[o](value.to(t)) for value, t, o in zip(maps, dtypes, layouts, strict=True))
    options = dict(zip(("alpha", "beta"), powers, strict=True))
    actual = loss_and_gradient(logits, target, "triton", **options)
    expected = loss_and_gradient(logits.double(), target.double(), "eager", **options)
    tolerance = 1e-12 if dtypes[0] == torch.float64 else 1e-5
    torch.testing.assert_close(actual[0].double(), expected[0], rtol=tolerance, atol=1e-30)
    step = max(tolerance, torch.finfo(dtypes[0]).eps)
    size = expected[1].abs().max().item() if expected[1].numel() else 0.0
    torch.testing.assert_close(actual[1].double(), expected[1], rtol=step, atol=step * size)


def test_saturated_logits_keep_exact_losses_and_finite_gradients():
    logits = torch.tensor([-1e4, -200.0, -40.0, 40.0, 200.0, 1e4] * 2)
    target = torch.tensor([1.0] * 6 + [0.25] * 6)
    loss, gradient = loss_and_gradient(logits, target, "triton")
    weight = 0.75**4
    assert loss.item() == pytest.approx((1e4 + 200 + 40 + weight * (40 + 200 + 1e4)) / 6, rel=1e-6)
    expected = torch.tensor([-1.0, -1, -1, 0, 0, 0, 0, 0, 0, weight, weight, weight]) / 6
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("batch", "count", "size"), [(3, 9, (31, 37)), (0, 3, (4, 5)), (2, 0, (4, 5)), (1, 4, (1, 1))])
def test_targets_are_those_of_eager(batch, count, size):
    objects = random_objects(batch, count, 4, size, 6, 0)
    maps = []
    for backend in ("triton", "eager"):
        with mdnkernels.use_backend(backend):
            maps.append(mdnkernels.splat_gaussians(*objects, 4, size))
    assert torch.equal(maps[0] == 0, maps[1] == 0)
    torch.testing.assert_close(*maps, rtol=1e-6, atol=0)


@pytest.mark.parametrize("powers", [{}, {"alpha": 1.5, "beta": 3.5}, {"alpha": 0.0, "beta": 0.0}])
@pytest.mark.parametrize(
    ("dtype", "shape", "count", "layout"),
    [
        (torch.float32, (2, 3, 19, 33), 9, "contiguous"),
        (torch.float32, (2, 5, 19, 33), 9, "channels_last"),
        (torch.float64, (2, 3, 5, 7), 6, "sliced"),
        (torch.bfloat16, (1, 1, 3, 5), 0, "contiguous"),
        (torch.float16, (0, 2, 3, 5), 2, "contiguous"),
    ],
    ids=str,
)
def test_focal_loss_of_drawn_targets_and_its_gradient(powers, dtype, shape, count, layout):
    call = drawn(shape, count, dtype=dtype, largest=9, ignored=0.3)
    call["logits"] = LAYOUTS[layout](call["logits"])
    actual = center_focal.loss_and_gradient(call, "triton", **powers)
    expected = center_focal.loss_and_gradient({**call, "logits": call["logits"].double()}, "eager", **powers)
    torch.testing.assert_close(actual[0].double(), expected[0], rtol=1e-5, atol=1e-30)
    step = max(1e-5, torch.finfo(dtype).eps)
    size = expected[1].abs().max().item() if expected[1].numel() else 0.0
    torch.testing.assert_close(actual[1].double(), expected[1], rtol=step, atol=step * size)


def test_objects_that_share_a_centre_are_one_positive():
    """More objects than a program counts at once, with few centres."""
    draw = torch.Generator().manual_seed(0)
    center = torch.randint(0, 5, (2, 150, 2), generator=draw)
    call = {"logits": torch.zeros(2, 2, 5, 5), "center": center, "radius": torch.zeros(2, 150, dtype=torch.int64)}
    call["label"] = torch.randint(-1, 2, (2, 150), generator=draw)
    actual, expected = (center_focal.loss_and_gradient(call, backend) for backend in ("triton", "eager"))
    torch.testing.assert_close(actual, expected)


def test_second_derivatives_are_refused():
    arguments, others = MixtureCase(positions=(3,)).make()
    logits, target = random_maps((5,), 0)
    with mdnkernels.use_backend("triton"):
        losses = [
            (mdnkernels.mixture_nll(*arguments, **others), arguments[1]),
            (mdnkernels.heatmap_focal_loss(logits.requires_grad_(), target), logits),
            (mdnkernels.mixture_mode(arguments[0], arguments[1]).loc.sum(), arguments[1]),
        ]
    for loss, leaf in losses:
        with pytest.raises(NotImplementedError, match="of the triton backend is differentiable once"):
            torch.autograd.grad(loss, leaf, create_graph=True)


def test_ops_pass_opcheck():
    arguments, others = MixtureCase(batch=1, components=2, dims=2, positions=(2, 3), points=3).make()
    points = [value.detach().flatten(2).requires_grad_() for value in arguments]
    tril = torch.randn(1, 2, 6, dtype=torch.float64, requires_grad=True)
    observed = [others[name][:, :1] if name == "mask" else others[name] for name in ("mask", "index", "dim_scale")]
    mask, index, dim_scale = observed
    density = ("gaussian", 0.0, "elu", 1.0, True, 2)
    torch.library.opcheck(
        torch.ops.mdnkernels_triton.mixture_nll.default,
        (
            *(*points, tril, mask, others["weight"], index, dim_scale, None, *density),
            *("likelihood", 1.0, 0.0, 1.0, 1.0, False, "mean", True, True),
        ),
    )
    torch.library.opcheck(
        torch.ops.mdnkernels_triton.mixture_posterior.default,
        (*(value.detach() for value in points), tril.detach(), mask, index, dim_scale, *density, 2.0),
    )
    torch.library.opcheck(
        torch.ops.mdnkernels_triton.mixture_mode.default, (*points[:3], None, "mean", [1, 0], "elu", 1.0)
    )


def test_triton_runs_on_the_cpu_when_it_is_asked_for_alone():
    for op in backends.TABLE:
        assert backends.missing(op, "triton", "cpu") is None
        assert backends.chosen_by_default(op, "cpu") != "triton"
