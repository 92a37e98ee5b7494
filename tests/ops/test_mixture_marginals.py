"""Distribution functions, quantiles and CRPS of each dimension, against integrals, mpmath and torch."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch import Tensor

from mdnkernels import Family, Gaussian, Laplace, Logistic, Mixture, StudentT
from tests.ops.mixtures import FAMILIES, C, mixture, parameters


def grid(one: Mixture) -> Tensor:
    """Return points (S, 1) between which the density of one dimension is as good as straight."""
    return torch.linspace(-60, 60, 300_001, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_cdf_is_the_integral_of_the_density(family: Family) -> None:
    one = mixture(family, dims=1)
    x = grid(one)
    mass = torch.cumulative_trapezoid(one.log_prob(x).exp(), x[:, 0])
    expected = one.cdf(x[:1])[0, 0] + mass[::1000]
    torch.testing.assert_close(one.cdf(x[1::1000])[:, 0], expected, rtol=1e-6, atol=1e-7)


def test_cdf_is_torchs() -> None:
    one = mixture("gaussian", dims=1)
    torchs = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=one.logits),
        torch.distributions.Normal(one.component_loc[:, 0], one.component_scale[:, 0]),
    )
    x = torch.linspace(-4, 4, 50, dtype=torch.float64)
    torch.testing.assert_close(one.cdf(x[:, None])[:, 0], torchs.cdf(x))


def test_a_correlated_gaussians_dimensions_are_those_of_its_covariance() -> None:
    one = mixture("gaussian", 2, tril=True)
    value = torch.randn(5, 2, C, dtype=torch.float64)
    for d in range(C):
        alone = one.marginal([d])
        torch.testing.assert_close(one.cdf(value)[..., d], alone.cdf(value[..., [d]])[..., 0])
        torch.testing.assert_close(one.crps(value)[..., d], alone.crps(value[..., [d]])[..., 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("spread", [1.0, 1000.0])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_icdf_undoes_cdf_into_both_tails(family: Family, spread: float, dtype: torch.dtype) -> None:
    """Components that overlap, and ones with nothing in between."""
    one = mixture(family, 2, spread=spread, dtype=dtype)
    least = 1e-30 if dtype == torch.float32 else 1e-250
    inner = torch.linspace(0.03, 0.99, 31, dtype=dtype)
    p = torch.cat([torch.logspace(math.log10(least), -2, 40, dtype=dtype), inner])
    quantile = one.icdf(p[:, None, None].expand(-1, 2, C))
    assert (quantile[1:] >= quantile[:-1]).all()
    back = one.cdf(quantile)
    # The nearest number of the dtype to a quantile has a probability that is off by density times its rounding.
    wide = torch.finfo(dtype).eps
    sigma = one.component_scale.amin(-2)
    allowed = 16 * wide * (1 + quantile.abs() / sigma + p.log().abs()[:, None, None])
    assert ((back / p[:, None, None] - 1).abs() <= allowed.clamp(max=0.5)).all()
    upper = one.icdf(1 - inner[:, None, None].expand(-1, 2, C))
    off = (one.cdf(upper) - (1 - inner)[:, None, None]).abs()
    assert (off <= 16 * wide * (1 + upper.abs() / sigma)).all()


def test_quantiles_end_where_the_distribution_does() -> None:
    one = mixture("gaussian")
    ends = torch.tensor([0.0, 1.0, -0.1, 1.1], dtype=torch.float64)
    given = one.icdf(ends[:, None].expand(-1, C))
    assert (given[0] == -math.inf).all()
    assert (given[1] == math.inf).all()
    assert given[2:].isnan().all()


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_cdf_icdf_and_crps_are_differentiable(family: Family) -> None:
    given = {name: value.requires_grad_() for name, value in parameters(dims=2).items()}
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 2, dtype=torch.float64, generator=generator).requires_grad_()
    p = torch.rand(2, 2, dtype=torch.float64, generator=generator).requires_grad_()

    def of(name: str):
        return lambda value, *tensors: getattr(Mixture(*tensors, family=family, dim=-1), name)(value)

    assert torch.autograd.gradcheck(of("cdf"), (value, *given.values()), fast_mode=True)
    assert torch.autograd.gradcheck(of("icdf"), (p, *given.values()), fast_mode=True)
    if family.name in ("gaussian", "laplace"):
        assert torch.autograd.gradcheck(of("crps"), (value, *given.values()), fast_mode=True)


def test_quantiles_at_the_ends_have_no_gradient() -> None:
    given = {name: value.requires_grad_() for name, value in parameters(dims=1).items()}
    quantile = Mixture(**given, dim=-1).icdf(torch.tensor([[0.0], [0.5], [1.0]], dtype=torch.float64))
    quantile[1].sum().backward()
    assert all(value.grad.isfinite().all() for value in given.values())


@pytest.mark.parametrize("family", [Gaussian(), Laplace()], ids=str)
@pytest.mark.parametrize("near", [1.0, 1e-6, 0.0], ids=["apart", "near", "equal"])
def test_crps_is_the_integral_of_the_squared_difference(family: Family, near: float) -> None:
    """near: how much the components' scales differ, by which the closed form for Laplace's divides."""
    given = parameters(dims=1)
    given["scale"] = 0.3 + near * given["scale"]
    one = Mixture(**given, family=family, dim=-1)
    x = grid(one)
    below = one.cdf(x)[:, 0]
    for value in (-3.0, 0.1, 2.0):
        step = (x[:, 0] >= value).double()
        expected = torch.trapezoid((below - step).square(), x[:, 0])
        given_crps = one.crps(torch.tensor([value], dtype=torch.float64))
        torch.testing.assert_close(given_crps[0], expected, rtol=1e-3, atol=2e-4)
        fair = torch.trapezoid((below * (1 - below)), x[:, 0])  # E |X - X'| / 2
        distance = torch.trapezoid((x[:, 0] - value).abs() * one.log_prob(x).exp(), x[:, 0])
        torch.testing.assert_close(given_crps[0], distance - fair, rtol=1e-7, atol=1e-7)


def test_crps_of_one_gaussian_is_gneitings() -> None:
    mu, sigma, value = 0.3, 1.7, 2.0
    z = (value - mu) / sigma
    normal = torch.distributions.Normal(0.0, 1.0)
    at = torch.tensor(z, dtype=torch.float64)
    expected = sigma * (at * (2 * normal.cdf(at) - 1) + 2 * normal.log_prob(at).exp() - 1 / math.sqrt(math.pi))
    one = Mixture(
        *(torch.tensor([[each]], dtype=torch.float64) for each in (0.0, mu, sigma)), scale_activation="identity"
    )
    torch.testing.assert_close(one.crps(at.new_tensor([[value]]))[0, 0], expected)


def student_tail(z: float, df: float) -> mpmath.mpf:
    """Return P(T < z) for z below 0 in extended precision."""
    with mpmath.workdps(40):
        half, square = mpmath.mpf(df) / 2, mpmath.mpf(z) ** 2
        return mpmath.betainc(half, 0.5, 0, 2 * half / (2 * half + square), regularized=True) / 2


@pytest.mark.parametrize("df", [1e-3, 0.3, 1.0, 2.5, 4.0, 30.0, 999.0, 1001.0, 1e5])
def test_students_distribution_function_is_exact_in_its_tail(df: float) -> None:
    family = StudentT(df=df)
    for z in (-1e8, -300.0, -37.0, -8.0, -2.0, -1.7, -1.2, -0.5, -1e-3, -1e-9):
        exact = student_tail(z, df)
        if exact < (1e-290 if df <= 1000 else 1e-60):
            continue
        at = torch.tensor([z, -z], dtype=torch.float64)
        lower, upper = family.cdf(at).tolist()
        assert lower == pytest.approx(float(exact), rel=2e-11)
        assert upper == pytest.approx(1 - float(exact), rel=1e-14)


@pytest.mark.parametrize("family", [Gaussian(), Laplace(), Logistic(), StudentT(df=0.7), StudentT(df=3.5)], ids=str)
def test_standard_quantiles_undo_the_distribution_function(family: Family) -> None:
    p = torch.logspace(-30, math.log10(0.5), 50, dtype=torch.float64)
    torch.testing.assert_close(family.cdf(family.quantile(p)), p, rtol=1e-11, atol=0)
    assert family.quantile(p.new_zeros(1)).item() == -math.inf
