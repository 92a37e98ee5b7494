from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from torch import distributions
from torch.testing._internal.two_tensor import TwoTensor

import mdnkernels
from mdnkernels import MixtureNLLLoss, mixture_nll, native
from mdnkernels.mixture.families import family_of
from mdnkernels.mixture.objective import Objective
from tests.example_count import examples
from tests.native.simd import LEVELS, run_at_level
from tests.ops import reference
from tests.ops.mixture_cases import NAMES, MixtureCase, loss_and_gradients, mixture_cases
from tests.ops.table.mixture import ACTIVATIONS, FAMILIES

BACKENDS = ["native", "eager"]


def assert_close(actual: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    """Compare relative to the largest element of each tensor.

    A scale's gradient is share (1 - z^2) / sigma, which cancels near z = 1: its rounding is that of its terms, whose
    size the other gradients show. So is a loss near 0 the rest of a difference. Hence the floor under each size.
    """
    floor = max([1e-3, *(0.1 * e.abs().max().item() for e in expected[1:] if e.numel())])
    for name, a, e in zip(("loss", *NAMES)[: len(expected)], actual, expected, strict=True):
        assert a.shape == e.shape, name
        if e.numel():
            size = max(e.abs().max().item(), floor)
            error = (a.double() - e).abs().max().item()
            assert error <= tolerance * size, f"{name}: error {error:.3g} of {size:.3g}"


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=mixture_cases())
def test_float32_agrees_with_float64_in_value_and_every_gradient(backend, case):
    """A posterior is an exponential of log densities: one of 1000 is rounded by 6e-5 in float32, and each gradient with
    it. Hence the tolerance follows the largest loss of a position where that is above 20."""
    case = dataclasses.replace(case, dtype=torch.float32)
    assume(case.has_clear_winners())
    arguments, others = case.make()
    expected = loss_and_gradients("eager", arguments, others, torch.float64)
    unweighted = {**others, "weight": None, "reduction": "none"}
    losses = loss_and_gradients("eager", arguments, unweighted, torch.float64)[0]
    largest = losses.abs().max().item() if losses.numel() else 0.0
    tolerance = max(1e-5, 4 * torch.finfo(torch.float32).eps * largest)
    assert_close(loss_and_gradients(backend, arguments, others, torch.float32), expected, tolerance)


@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=mixture_cases())
def test_native_float64_agrees_with_eager_to_rounding(case):
    arguments, others = case.make()
    expected = loss_and_gradients("eager", arguments, others, torch.float64)
    assert_close(loss_and_gradients("native", arguments, others, torch.float64), expected, 1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "case", [MixtureCase(), MixtureCase(channels_last=True, positions=(16, 16)), MixtureCase(points=11)]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_is_computed_in_float32(backend, case, dtype):
    arguments, others = dataclasses.replace(case, dtype=dtype).make()
    expected = loss_and_gradients("eager", arguments, others, torch.float64)
    actual = loss_and_gradients(backend, arguments, others, dtype)
    assert actual[0].dtype == torch.float32
    torch.testing.assert_close(actual[0].double(), expected[0], rtol=1e-5, atol=1e-6)
    # Gradients come in the inputs' dtype: one rounding each, and one more per repeated point.
    for a, e in zip(actual[1:], expected[1:], strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(
            a.double(), e, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps * e.abs().max()
        )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_agrees_with_a_loop_in_extended_precision(backend, family, activation):
    case = MixtureCase(
        family=family, scale_activation=activation, positions=(5,), weighted=False, reduction="none", min_scale=0.1
    )
    arguments, others = case.make()
    with mdnkernels.use_backend(backend):
        loss = mixture_nll(*arguments, **others)
    options = {name: value for name, value in others.items() if name != "reduction"}
    expected = reference.mixture_nll(*(a.detach() for a in arguments), **options)
    for b, row in enumerate(expected):
        for p, value in enumerate(row):
            assert loss[b, p].item() == pytest.approx(float(value), rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_torch_distributions_mixture_of_diagonal_gaussians(backend):
    case = MixtureCase(
        groups=None, scales=4, weighted=False, kappa=False, scale_activation="identity", reduction="none"
    )
    (logits, loc, scale, target), others = case.make()
    with mdnkernels.use_backend(backend):
        loss = mixture_nll(logits, loc, scale, target, **others)

    def last(value: torch.Tensor) -> torch.Tensor:  # (B, M*C, H, W) -> (B, H, W, M, C)
        return value.unflatten(1, (case.components, -1)).permute(0, 3, 4, 1, 2)

    mixture = distributions.MixtureSameFamily(
        distributions.Categorical(logits=logits.permute(0, 2, 3, 1)),
        distributions.Independent(distributions.Normal(last(loc), last(scale)), 1),
    )
    expected = -mixture.log_prob(target.permute(0, 2, 3, 1))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(loss.sum(), [logits, loc, scale, target])
    for actual, wanted in zip(
        gradients, torch.autograd.grad(expected.sum(), [logits, loc, scale, target]), strict=True
    ):
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "case",
    [
        MixtureCase(positions=(2, 3)),
        MixtureCase(positions=(2, 3), family="laplace", reduction="none"),
        MixtureCase(positions=(2, 3), scale_activation="softplus", scales=1, groups=4),
        MixtureCase(positions=(2, 3), scale_activation="exp", scales=4, groups=1, reduction="sum"),
        MixtureCase(positions=(2, 3), scale_activation="identity", groups=None, weighted=False),
        MixtureCase(positions=(2, 3), points=5, reduction="none"),
        MixtureCase(positions=(2, 3), points=5, channels_last=True),
        MixtureCase(positions=()),
    ],
    ids=str,
)
def test_gradcheck(backend, case):
    arguments, others = case.make()
    with mdnkernels.use_backend(backend):
        assert torch.autograd.gradcheck(lambda *values: mixture_nll(*values, **others), arguments, fast_mode=False)


@pytest.mark.parametrize(
    "case",
    [
        MixtureCase(),
        MixtureCase(channels_last=True, reduction="none"),
        MixtureCase(points=5),
        MixtureCase(points=5, reduction="none"),
        MixtureCase(groups=None, weighted=False, kappa=False, positions=(4,)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gradients", [(True, True), (True, False), (False, False)])
def test_native_op_passes_opcheck(case, dtype, gradients):
    (logits, loc, scale, target), others = dataclasses.replace(case, dtype=dtype).make()
    points = [
        value.detach().flatten(2).requires_grad_(gradients[i == 3])
        for i, value in enumerate((logits, loc, scale, target))
    ]
    mask, weight, family = others.get("mask"), others.get("weight"), family_of(case.family)
    torch.library.opcheck(
        torch.ops.mdnkernels.mixture_nll.default,
        (
            *points,
            None,
            None if mask is None else mask.flatten(2),
            None if weight is None else weight.flatten(1),
            others.get("index"),
            others.get("dim_scale"),
            None,
            *(family.name, family.parameter),
            *(case.scale_activation, case.min_scale, case.scale_order == "interleaved", case.block),
            *dataclasses.astuple(Objective()),
            case.reduction,
            *gradients,
        ),
    )


# Through inductor, which takes seconds each; test_torch_integration.py has every size in one graph without it.
@pytest.mark.parametrize(
    ("backend", "dynamic", "points"),
    [
        pytest.param(*case, marks=() if case == ("native", False, 6) else pytest.mark.slow)
        for case in itertools.product(("native", "eager"), (False, True), (None, 6))
    ],
)
def test_compiles_as_one_graph(backend, dynamic, points):
    torch.compiler.reset()
    case = MixtureCase(dtype=torch.float32, points=points)
    arguments, others = case.make()
    compiled = torch.compile(lambda *values: mixture_nll(*values, **others), fullgraph=True, dynamic=dynamic)
    with mdnkernels.use_backend(backend):
        expected = mixture_nll(*arguments, **others)
        loss = compiled(*arguments)
    gradients = torch.autograd.grad(3 * loss, arguments)
    for actual, wanted in zip(
        [loss, *gradients], [expected, *torch.autograd.grad(3 * expected, arguments)], strict=True
    ):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("observed", [0.02, 0.6])
def test_same_bits_for_any_number_of_threads(observed):
    case = MixtureCase(batch=3, positions=(61, 67), dtype=torch.float32, observed=observed)
    arguments, others = case.make()
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(loss_and_gradients("native", arguments, others, torch.float32))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("level", LEVELS)
def test_every_simd_level_of_this_machine_agrees_with_float64(level):
    script = """
import torch
from tests.ops.mixture_cases import MixtureCase, loss_and_gradients
from mdnkernels import native
print("level", native.simd_level())
for case in [MixtureCase(positions=(31, 37)), MixtureCase(positions=(16, 32), channels_last=True, family="laplace"),
             MixtureCase(positions=(16, 32), scale_activation="softplus", points=50)]:
    arguments, others = case.make()
    arguments = [value.float() for value in arguments]
    expected = loss_and_gradients("eager", arguments, others, torch.float64)
    actual = loss_and_gradients("native", arguments, others, torch.float32)
    for a, e in zip(actual, expected, strict=True):
        assert (a.double() - e).abs().max() <= 1e-5 * e.abs().max(), (a, e)
"""
    assert f"level {level}" in run_at_level(script, level)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_observed_gives_exactly_zero_whatever_the_inputs_hold(backend):
    case = MixtureCase(reduction="none", dtype=torch.float32)
    arguments, others = case.make()
    hidden = ~others["mask"].any(1)
    assert hidden.any()
    with torch.no_grad():
        for value in arguments:
            value[hidden.unsqueeze(1).expand_as(value)] = math.nan
    loss, *gradients = loss_and_gradients(backend, arguments, others, torch.float32)
    assert (loss[hidden] == 0).all()
    for gradient in gradients:
        assert (gradient[hidden.unsqueeze(1).expand_as(gradient)] == 0).all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_over_nothing_is_zero_with_zero_gradients(backend, reduction):
    arguments, others = MixtureCase(reduction=reduction).make()
    others["mask"] = torch.zeros_like(others["mask"])
    loss, *gradients = loss_and_gradients(backend, arguments, others, torch.float64)
    assert loss == 0
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("backend", BACKENDS)
def test_masked_dimension_is_marginalised(backend):
    arguments, others = MixtureCase(scales=1, groups=4, kappa=False, positions=(6,)).make()
    logits, loc, scale, target = arguments
    others["mask"] = torch.tensor([True, False, True, True]).view(1, 4, 1).expand(2, 4, 6)
    kept = [0, 2, 3]
    with mdnkernels.use_backend(backend):
        masked = mixture_nll(*arguments, **others)
        others.pop("mask")
        removed = mixture_nll(logits, loc.view(2, 3, 4, 6)[:, :, kept].flatten(1, 2), scale, target[:, kept], **others)
    torch.testing.assert_close(masked, removed, rtol=1e-13, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_unobserved_nan_does_not_reach_loss_or_gradients(backend):
    arguments, others = MixtureCase(dtype=torch.float32, groups=4).make()
    expected = loss_and_gradients(backend, arguments, others, torch.float32)
    with torch.no_grad():
        arguments[3][~others["mask"]] = math.nan
    actual = loss_and_gradients(backend, arguments, others, torch.float32)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("activation", "raw"), [("exp", 200.0), ("identity", 0.0), ("elu", math.nan)])
def test_a_scale_whose_dimensions_are_all_unobserved_leaves_the_density(backend, activation, raw):
    case = MixtureCase(dtype=torch.float32, groups=4, scales=4, scale_activation=activation)
    arguments, others = case.make()
    others["mask"][:, 1] = False
    expected = loss_and_gradients(backend, arguments, others, torch.float32)
    with torch.no_grad():
        arguments[2][:, 1 :: case.scales] = raw
    actual = loss_and_gradients(backend, arguments, others, torch.float32)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["native"])
def test_half_precision_gradients_are_added_and_scaled_in_float32(backend, dtype):
    """One position repeated two thousand times, under a mean's small divisor and a large loss scale."""
    arguments, others = MixtureCase(
        batch=1, positions=(3,), groups=None, weighted=False, kappa=False, dtype=dtype
    ).make()
    others["index"] = torch.ones(1, 2000, dtype=torch.int64)
    target = arguments[3].detach()[:, :, :1].expand(-1, -1, 2000)

    def gradients(values: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        with mdnkernels.use_backend(backend):
            loss = mixture_nll(*values, target.to(values[0].dtype), **others)
        return torch.autograd.grad(1024 * loss, values)

    exact = gradients([value.detach().double().requires_grad_() for value in arguments[:3]])
    for actual, expected in zip(gradients(arguments[:3]), exact, strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_a_graph_exported_without_gradients_refuses_to_train():
    inputs = tuple(value.detach() for value in MixtureCase(dtype=torch.float32, scales=4, positions=(4, 4)).make()[0])

    class Loss(torch.nn.Module):
        def forward(self, *values: torch.Tensor) -> torch.Tensor:
            return mixture_nll(*values)

    exported = torch.export.export(Loss(), inputs).module()
    torch.testing.assert_close(exported(*inputs), Loss()(*inputs))
    with pytest.raises(RuntimeError, match="required no gradient"):
        exported(*(value.requires_grad_() for value in inputs)).backward()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("which", range(4))
def test_a_nan_input_gives_a_nan_loss(backend, which):
    arguments, others = MixtureCase(groups=None, dtype=torch.float32).make()
    with torch.no_grad():
        arguments[which][1, 0, 3, 3] = math.nan
    with mdnkernels.use_backend(backend):
        assert mixture_nll(*arguments, **others).isnan()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_are_finite_and_agree_with_extended_precision(backend, family, dtype):
    """Residuals of 1e6 sigma, logits of +-1e4, raw scales of -1e4, one component dominating, all equal."""
    logits = torch.tensor([[0.0, 1e4, -1e4, 3.0], [0.0, -1e4, 1e4, 3.0]], dtype=dtype).unsqueeze(0)
    loc = torch.tensor([[0.0, 0.0, 1e6, 2.0], [1e6, 0.0, -1e6, 2.0]], dtype=dtype).unsqueeze(0)
    scale = torch.tensor([[-1e4, 0.0, -50.0, 1.0], [-1e4, 1.0, -1e4, 1.0]], dtype=dtype).unsqueeze(0)
    target = torch.tensor([[1e6, 1.0, -1e6, 2.0]], dtype=dtype).unsqueeze(0)
    arguments = [value.requires_grad_() for value in (logits, loc, scale, target)]
    options = {"family": family, "scale_activation": "elu", "min_scale": 1.0}
    with mdnkernels.use_backend(backend):
        loss = mixture_nll(*arguments, **options, reduction="none")
    gradients = torch.autograd.grad(loss.sum(), arguments)
    assert all(gradient.isfinite().all() for gradient in gradients)
    expected = reference.mixture_nll(*(value.detach() for value in arguments), **options)[0]
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for actual, value in zip(loss[0].tolist(), expected, strict=True):
        assert actual == pytest.approx(float(value), rel=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_repeated_positions_add_their_gradients_and_padding_adds_none(backend):
    arguments, others = MixtureCase(points=4, groups=None, weighted=False, reduction="sum", positions=(5,)).make()
    target = arguments[3].detach()
    target[:, :, 1] = target[:, :, 0]
    index = torch.tensor([[2, 2, -1, 4], [0, 0, -1, 3]])

    def gradients(index: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with mdnkernels.use_backend(backend):
            loss = mixture_nll(*arguments[:3], target, **{**others, "index": index})
        return torch.autograd.grad(loss, arguments[:3])

    for both, first, last in zip(
        gradients(index, target),
        gradients(index[:, :1], target[:, :, :1]),
        gradients(index[:, 3:], target[:, :, 3:]),
        strict=True,
    ):
        torch.testing.assert_close(both, 2 * first + last, rtol=1e-12, atol=1e-15)


def test_module_gives_the_functions_loss_and_shows_its_options():
    arguments, others = MixtureCase(family="laplace", scale_activation="exp", min_scale=0.5, reduction="sum").make()
    options = {
        name: others.pop(name) for name in ("family", "scale_activation", "min_scale", "scale_order", "reduction")
    }
    module = MixtureNLLLoss(**options)
    assert torch.equal(module(*arguments, **others), mixture_nll(*arguments, **others, **options))
    assert "laplace" in repr(module)
    assert "0.5" in repr(module)


def test_second_derivative_of_native_is_refused_and_eager_has_it():
    arguments, others = MixtureCase(positions=(3,)).make()
    with mdnkernels.use_backend("native"):
        loss = mixture_nll(*arguments, **others)
    with pytest.raises(NotImplementedError, match="differentiable once"):
        torch.autograd.grad(loss, arguments[1], create_graph=True)
    with mdnkernels.use_backend("eager"):
        assert torch.autograd.gradgradcheck(
            lambda loc: mixture_nll(arguments[0], loc, *arguments[2:], **others), arguments[1]
        )


def test_a_target_in_float32_beside_half_precision_parameters():
    arguments, others = MixtureCase(dtype=torch.bfloat16, weighted=False, kappa=False).make()
    target = arguments[3].detach().float() + 1e-3
    loss = mixture_nll(*arguments[:3], target, **others)
    expected = mixture_nll(*(value.double() for value in arguments[:3]), target.double(), **others)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"logits": torch.zeros(2, 3, 7, 8)}, ValueError, ["loc", "(2, 12, 7, 8)", "(2, 12, 7, 9)"]),
        ({"logits": torch.zeros(2)}, ValueError, ["logits", "(B, M, *P)"]),
        ({"logits": torch.zeros(2, 3, 7, 9, dtype=torch.int64)}, TypeError, ["logits", "int64"]),
        ({"logits": [1.0]}, TypeError, ["logits", "list"]),
        ({"loc": torch.zeros(2, 13, 7, 9)}, ValueError, ["loc", "M = 3", "13"]),
        ({"loc": torch.zeros(2, 12, 7, 9, dtype=torch.float64)}, TypeError, ["loc", "float32", "float64"]),
        ({"scale": torch.zeros(2, 9, 7, 9)}, ValueError, ["scale", "S = 3", "C = 4"]),
        ({"target": torch.zeros(2, 5, 7, 9)}, ValueError, ["target", "(2, 4, 7, 9)", "(2, 5, 7, 9)"]),
        ({"target": torch.zeros(2, 1, 7, 9)}, ValueError, ["target"]),
        ({"target": torch.zeros(2, 4, 7, 9, dtype=torch.float16)}, TypeError, ["target", "float16"]),
        ({"mask": torch.ones(2, 3, 7, 9, dtype=torch.bool)}, ValueError, ["mask", "C = 4"]),
        ({"mask": torch.ones(2, 2, 7, 9)}, TypeError, ["mask", "bool"]),
        ({"mask": torch.ones(1, 2, 7, 9, dtype=torch.bool)}, ValueError, ["mask", "(2, 2, 7, 9)"]),
        ({"weight": torch.ones(2, 1, 7, 9)}, ValueError, ["weight", "(2, 7, 9)"]),
        ({"weight": torch.ones(2, 7, 9, requires_grad=True)}, ValueError, ["weight", "detach"]),
        ({"dim_scale": torch.ones(3)}, ValueError, ["dim_scale", "(4,)"]),
        ({"dim_scale": torch.tensor([1.0, -1.0, 1.0, 1.0])}, ValueError, ["dim_scale", "-1.0"]),
        ({"dim_scale": torch.tensor([1.0, 0.0, 1.0, 1.0])}, ValueError, ["dim_scale", "0.0"]),
        ({"index": torch.zeros(2, 5, dtype=torch.int32)}, TypeError, ["index", "int64"]),
        ({"index": torch.zeros(3, 5, dtype=torch.int64)}, ValueError, ["index", "B = 2"]),
        ({"index": torch.full((2, 5), 63)}, IndexError, ["index", "63"]),
        ({"index": torch.full((2, 5), -2)}, IndexError, ["index", "-2"]),
        ({"target": torch.zeros(2, 4, 7, 9, device="meta")}, ValueError, ["target", "meta", "cpu"]),
        ({"family": "cauchy"}, ValueError, ["family", "cauchy", "laplace"]),
        ({"scale_activation": "relu"}, ValueError, ["scale_activation", "relu"]),
        ({"reduction": "avg"}, ValueError, ["reduction", "avg"]),
        ({"min_scale": -1.0}, ValueError, ["min_scale", "-1.0"]),
        ({"min_scale": math.nan}, ValueError, ["min_scale", "nan"]),
        ({"min_scale": "1"}, TypeError, ["min_scale", "str"]),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else None,
)
def test_bad_input_is_refused_by_name(change, error, words):
    good = {
        "logits": torch.zeros(2, 3, 7, 9),
        "loc": torch.zeros(2, 12, 7, 9),
        "scale": torch.zeros(2, 6, 7, 9),
        "target": torch.zeros(2, 4, 7, 9),
        "scale_order": "interleaved",
    }
    mixture_nll(**good)
    with pytest.raises(error) as caught:
        mixture_nll(**{**good, **change})
    for word in words:
        assert word in str(caught.value)


class Tagged(torch.Tensor):
    """A subclass that adds nothing."""


@pytest.mark.parametrize(
    "kind",
    [
        lambda value: torch.nn.Parameter(value, requires_grad=False),
        lambda value: value.as_subclass(Tagged),
        lambda value: TwoTensor(value, value.clone()),  # without elements of its own: it dispatches to two
    ],
    ids=["Parameter", "subclass", "wrapper"],
)
def test_values_are_checked_in_a_tensor_of_any_type(kind):
    parameters = [torch.zeros(2, channels, 4) for channels in (3, 6, 6)]
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"dim_scale must be positive and finite, got {bad}"):
            mixture_nll(*parameters, torch.zeros(2, 2, 4), dim_scale=kind(torch.tensor([1.0, bad])))
    for bad in (-2, 4):
        with pytest.raises(IndexError, match=rf"index must lie in \[-1, 4\).*got {bad}"):
            mixture_nll(*parameters, torch.zeros(2, 2, 1), index=kind(torch.tensor([[0], [bad]])))


def test_a_parameter_that_is_frozen_scales_as_its_values_do():
    torch.manual_seed(0)
    inputs, kappa = [torch.randn(2, channels, 4) for channels in (3, 6, 6, 2)], torch.tensor([0.5, 2.0])
    frozen = torch.nn.Parameter(kappa, requires_grad=False)
    assert torch.equal(mixture_nll(*inputs, dim_scale=frozen), mixture_nll(*inputs, dim_scale=kappa))


def test_the_native_library_is_what_runs_on_the_cpu():
    assert native.problem is None, native.problem


@pytest.mark.parametrize("components", range(1, 11))
def test_dense_rows_have_the_bits_of_planar_maps(components):
    count = 16 * 3 + 5  # whole vectors, and a rest
    logits, loc, scale = (torch.randn(count, components) for _ in range(3))
    rows = [logits, loc, scale, torch.randn(count, 1)]
    planar = [value.T.contiguous()[None] for value in rows]

    def differentiate(values):
        values = [value.clone().requires_grad_() for value in values]
        with mdnkernels.use_backend("native"):
            loss = mdnkernels.mixture_nll(*values, reduction="none")
        return [loss.detach(), *torch.autograd.grad(loss.sum(), values)]

    loss, *gradients = differentiate(rows)
    expected_loss, *expected = differentiate(planar)
    assert torch.equal(loss, expected_loss[0])
    for gradient, of_map in zip(gradients, expected, strict=True):
        assert torch.equal(gradient, of_map[0].T)
