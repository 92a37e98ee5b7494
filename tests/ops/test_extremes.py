"""The extremes: residuals of up to 1e6 sigma, raw scales and logits of +-1e4, one component dominating, all equal,
min_scale 0, one component alone. Finite wherever the docstring promises it, and right.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import mpmath
import pytest
import torch
from torch import Tensor

import mdnkernels
from mdnkernels.mixture.eager import activate_scale
from mdnkernels.mixture.families import Family, family_of
from tests.ops import reference
from tests.ops.table.mixture import ACTIVATIONS, FAMILIES

BACKENDS = ["native", "eager"]
RAW = (-1e4, -80.0, -20.0, 0.0, 0.5, 1e4)
RESIDUALS = (1e-6, 2.0, -1e6)  # in sigma
LOGITS = ((0.0, 0.0), (1e4, -1e4), (-1e4, 1e4))
DIMS = 2


@dataclass(frozen=True)
class Extremes:
    """All combinations as the positions of one map: (1, K, P), exact in `dtype`."""

    family: str | Family
    activation: str
    min_scale: float
    components: int
    dtype: torch.dtype

    @property
    def options(self) -> dict[str, object]:
        return {"family": self.family, "scale_activation": self.activation, "min_scale": self.min_scale}

    @functools.cached_property
    def arguments(self) -> list[Tensor]:
        """logits, loc, scale, target. The second component is the first, or lies on the other side of the target."""
        rows = []
        for raw, z, logits, other in itertools.product(RAW, RESIDUALS, LOGITS, (1.0, -1.0)):
            if raw < 0 and self.activation == "identity":
                continue
            value = torch.tensor(raw, dtype=torch.float64)
            sigma = activate_scale(value, self.activation, self.min_scale).item()
            largest = (1 + z * z) / sigma if sigma > 0 else float("inf")  # of the gradients
            # What the docstring promises, and what this dtype can hold.
            float32 = torch.finfo(torch.float32)
            promised = 1e-37 <= sigma <= 1e37 and largest < float32.max
            if promised and max(abs(z) * sigma, largest) < 0.1 * torch.finfo(self.dtype).max:
                target = z * sigma
                rows.append([*logits, *[0.0] * DIMS, *[(1 - other) * target] * DIMS, raw, raw, *[target] * DIMS])
        columns = torch.tensor(rows, dtype=torch.float64).T.unsqueeze(0).to(self.dtype)
        logits, loc, scale, target = columns.split([2, 2 * DIMS, 2, DIMS], 1)
        m = self.components
        return [logits[:, :m], loc[:, : m * DIMS], scale[:, :m], target]

    @property
    def sigma(self) -> Tensor:
        """The least of each position, (1, P)."""
        return activate_scale(self.arguments[2].double(), self.activation, self.min_scale).amin(1)

    @functools.cached_property
    def losses(self) -> Tensor:
        """In extended precision."""
        exact = reference.mixture_nll(*self.arguments, **self.options)[0]
        return torch.tensor([float(value) for value in exact], dtype=torch.float64)

    def loss_and_gradients(self, backend: str, dtype: torch.dtype) -> list[Tensor]:
        leaves = [value.to(dtype).requires_grad_() for value in self.arguments]
        with mdnkernels.use_backend(backend):
            loss = mdnkernels.mixture_nll(*leaves, **self.options, reduction="none")
        return [loss.detach(), *torch.autograd.grad(loss.sum(), leaves)]


def all_extremes(*dtypes: torch.dtype):
    combinations = itertools.product(FAMILIES, ACTIVATIONS, (0.0, 1.0), (1, 2), dtypes)
    every = [Extremes(*values) for values in combinations]
    return pytest.mark.parametrize("extremes", every, ids=str)


def allowed_errors(extremes: Extremes, actual: list[Tensor], expected: list[Tensor]) -> list[Tensor]:
    """Return those of the gradients at each position, (1, P) for each argument, before rounding to the inputs' dtype.

    A posterior is an exponential of log densities, whose rounding is part of every gradient of two components: beside a
    loss of 1e12 a difference of 1e4 between logits is none in float32. One component has no such part. A logistic's
    slope is a difference of two probabilities.
    """
    arithmetic = torch.promote_types(extremes.dtype, torch.float32)
    step, base = torch.finfo(arithmetic).eps, 2e-5 if arithmetic == torch.float32 else 1e-12
    posterior = (8 * step * expected[0].abs()).clamp(max=2) if extremes.components > 1 else 0.0
    sizes = [torch.maximum(a.double().abs(), e.abs()).amax(1) for a, e in zip(actual[1:], expected[1:], strict=True)]
    sizes[0] = torch.ones_like(sizes[0])  # a logit's gradient is a difference of two shares
    sizes[3] = sizes[1]  # and the target's a sum of the means'
    allowed = [(base + posterior) * size for size in sizes]
    if "logistic" in family_of(extremes.family).name:
        for which in (1, 3):
            allowed[which] = allowed[which] + 4 * step / extremes.sigma
    return allowed


@pytest.mark.parametrize("backend", BACKENDS)
@all_extremes(torch.float32, torch.float64)
def test_losses_are_finite_and_those_of_extended_precision(backend, extremes):
    loss = extremes.loss_and_gradients(backend, extremes.dtype)[0][0]
    single = extremes.dtype == torch.float32
    assert len(loss) >= 18
    assert loss.isfinite().all()
    relative, absolute = (2e-6, 2e-5) if single else (1e-14, 1e-11)
    torch.testing.assert_close(loss.double(), extremes.losses, rtol=relative, atol=absolute)


@pytest.mark.parametrize("backend", BACKENDS)
@all_extremes(torch.float32, torch.float64, torch.bfloat16, torch.float16)
def test_gradients_are_finite_and_those_of_float64(backend, extremes):
    actual = extremes.loss_and_gradients(backend, extremes.dtype)
    expected = extremes.loss_and_gradients("eager", torch.float64)
    limits = torch.finfo(extremes.dtype)
    for a, e, allowed in zip(actual[1:], expected[1:], allowed_errors(extremes, actual, expected), strict=True):
        assert a.isfinite().all()
        error = (a.double() - e).abs()
        allowed = allowed.unsqueeze(1) + 2 * limits.eps * e.abs() + limits.smallest_normal
        assert (error <= allowed).all(), (error / allowed).max()


def slope_by_differences(values: list[list[float]], which: int, place: int, family: str, activation: str) -> mpmath.mpf:
    """Return d loss / d values[which][place] of a position of two components, from the formula in 60 digits."""

    def loss(value: mpmath.mpf) -> mpmath.mpf:
        logits, loc, scale, target = (
            [value if (which, place) == (i, j) else v for j, v in enumerate(row)] for i, row in enumerate(values)
        )
        parameters = logits, [loc[:DIMS], loc[DIMS:]], [scale[:1], scale[1:]], target
        return reference.position_nll(*parameters, [True] * DIMS, [1.0] * DIMS, family, activation, 0.0)

    with mpmath.workdps(60):
        here = mpmath.mpf(values[which][place])
        unit = reference.sigma_of(values[2][0], activation, 0.0) if which in (1, 3) else 1
        step = mpmath.mpf(10) ** -25 * unit
        return (loss(here + step) - loss(here - step)) / (2 * step)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_in_float64_are_the_derivatives_of_extended_precision(backend, family, activation):
    """At every seventh position."""
    extremes = Extremes(family, activation, 0.0, 2, torch.float64)
    loss, *gradients = extremes.loss_and_gradients(backend, torch.float64)
    allowed = allowed_errors(extremes, [loss, *gradients], [loss, *gradients])
    for p in range(0, loss.shape[1], 7):
        values = [tensor[0, :, p].tolist() for tensor in extremes.arguments]
        for which, place in [(0, 0), (1, 1), (1, 2), (2, 0), (3, 1)]:
            slope = slope_by_differences(values, which, place, family, activation)
            actual = gradients[which][0, place, p].item()
            assert abs(actual - slope) <= allowed[which][0, p].item() + 1e-300, (p, which, place, actual, slope)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nothing_observed_is_zero_at_every_extreme(backend, family, activation):
    """Scales that the docstring promises nothing about included."""
    raw = torch.tensor([*RAW, 1e38, -1e38, torch.inf, torch.nan]).repeat(1, 2, 1).requires_grad_()
    logits = torch.tensor([[1e4], [-torch.inf]]).expand(1, 2, raw.shape[2]).clone().requires_grad_()
    loc = torch.full((1, 4, raw.shape[2]), 1e38, requires_grad=True)
    target = torch.full((1, 2, raw.shape[2]), -1e38, requires_grad=True)
    mask = torch.zeros(1, 1, raw.shape[2], dtype=torch.bool)
    with mdnkernels.use_backend(backend):
        loss = mdnkernels.mixture_nll(
            logits, loc, raw, target, mask=mask, family=family, scale_activation=activation, min_scale=0.0
        )
    assert loss == 0
    for gradient in torch.autograd.grad(loss, [logits, loc, raw, target]):
        assert (gradient == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("select", ["weight", "density", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("components", [1, 2])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_modes_at_the_extremes_are_those_of_float64(backend, select, dtype, components, activation):
    logits, loc, scale, _ = Extremes("gaussian", activation, 0.0, components, dtype).arguments
    options = {"select": select, "scale_activation": activation, "min_scale": 0.0}
    with mdnkernels.use_backend(backend):
        mode = mdnkernels.mixture_mode(logits, loc, scale, **options)
    with mdnkernels.use_backend("eager"):
        expected = mdnkernels.mixture_mode(logits.double(), loc.double(), scale.double(), **options)
    assert torch.equal(mode.component, expected.component)
    tolerance = 2 * torch.finfo(dtype).eps if dtype != torch.float64 else 1e-15
    for name, a, e in zip(mode._fields, mode, expected, strict=True):
        if e is not None and a.is_floating_point():
            e = torch.where(e > torch.finfo(dtype).max, torch.inf, e)  # a variance, the square of a sigma
            assert name == "variance" or a.isfinite().all()
            torch.testing.assert_close(a.double(), e.double(), rtol=2 * tolerance, atol=1e-37)
