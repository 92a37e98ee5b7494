"""Student's t: its distribution function and quantiles, which torch does not have.

Everything is computed in float64 and rounded to the dtype of what is asked.

Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.5.8 and 26.7.1 (the continued fraction of the
incomplete beta function); Hill, "Algorithm 395: Student's t-distribution", 1970 (many degrees of freedom).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mdnkernels.mixture import roots

# Of more degrees of freedom the fraction takes too many terms, and Hill's expansion has all digits down to tails of
# 1e-60.
_MANY = 1000.0
_TERMS = 400


def constant(df: float) -> float:
    """Return log(df pi) / 2 + lgamma(df / 2) - lgamma((df + 1) / 2), what -log of the density has beside z."""
    half = df / 2
    if half < 100:
        return math.log(df * math.pi) / 2 + math.lgamma(half) - math.lgamma(half + 0.5)
    # The difference cancels where it is large; this is its expansion.
    return math.log(2 * math.pi) / 2 + 1 / (8 * half) - 1 / (192 * half**3) + 1 / (640 * half**5)


def cdf(z: Tensor, df: float) -> Tensor:
    """Return the distribution function at z, exact to rounding in the lower tail. Without a gradient."""
    tail = torch.exp(_log_tail(z.detach().double().abs(), df))
    return torch.where(z > 0, 1 - tail, tail).to(z.dtype)


def quantile(p: Tensor, df: float) -> Tensor:
    """Return the z of which `cdf` is p, p at most 1/2; -inf for 0. Without a gradient."""
    wanted = p.detach().double()

    # In y = asinh(-z), which is -z near 0 and its logarithm far out, the logarithm of the tail is nearly straight.
    def evaluate(y: Tensor) -> roots.Evaluation:
        size = torch.sinh(y)
        log_tail = _log_tail(size, df)
        log_ratio = 2 * torch.log(size) - math.log(df)
        log_density = -(df + 1) / 2 * torch.logaddexp(torch.zeros_like(y), log_ratio) - constant(df)
        slope = torch.exp(log_density + torch.log(torch.cosh(y)) - log_tail)
        excess = torch.log(wanted) - log_tail  # rises with y
        return excess, y - excess / slope, 4 * torch.finfo(torch.float64).eps * (y + 1 / slope)

    inside = (wanted > 0) & (wanted < 0.5)
    high = torch.where(inside, 709.0, 0.0).double()  # the largest of which sinh is finite
    y = roots.between(torch.zeros_like(wanted), high, evaluate)
    z = -torch.sinh(y)
    z = torch.where(wanted == 0, -torch.inf, torch.where((wanted >= 0) & (wanted <= 0.5), z, torch.nan))
    return z.to(p.dtype)


def _log_tail(size: Tensor, df: float) -> Tensor:
    """Return log P(T > size) for size of at least 0, float64."""
    if df > _MANY:
        return torch.special.log_ndtr(-_normal_of_many(size, df))
    a = df / 2
    log_ratio, nothing = 2 * torch.log(size) - math.log(df), torch.zeros_like(size)
    log_x = -torch.logaddexp(nothing, log_ratio)  # x = df / (df + size^2)
    log_rest = -torch.logaddexp(nothing, -log_ratio)  # 1 - x
    x = torch.exp(log_x)
    outer = x < (a + 1) / (a + 2.5)
    log_front = a * log_x + 0.5 * log_rest + math.log(df) / 2 - constant(df)  # less the logarithm of the beta function
    # I_x(a, 1/2) / 2 where its fraction converges, else (1 - I_{1 - x}(1/2, a)) / 2.
    of_a, of_half = torch.full_like(x, a), torch.full_like(x, 0.5)
    fraction = _fraction(
        torch.where(outer, x, torch.exp(log_rest)),
        torch.where(outer, of_a, of_half),
        torch.where(outer, of_half, of_a),
    )
    tail = torch.where(outer, log_front + torch.log(fraction / a / 2), torch.log(0.5 - torch.exp(log_front) * fraction))
    return torch.where(size.isnan(), size, torch.where(size.isinf(), -torch.inf, tail))


def _fraction(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the continued fraction of I_x(a, b) by Lentz's method."""
    tiny = 1e-300

    def away_from_zero(value: Tensor) -> Tensor:
        return torch.where(value.abs() < tiny, tiny, value)

    c = torch.ones_like(x)
    d = 1 / away_from_zero(1 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, _TERMS):
        change = torch.ones_like(x)
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / away_from_zero(1 + term * d), away_from_zero(1 + term / c)
            change = change * c * d
        result = result * change
        if m % 8 == 0 and not ((change - 1).abs() > 1e-14).any():
            break
    return result


def _normal_of_many(size: Tensor, df: float) -> Tensor:
    """Return the standard normal quantile of the same tail, by Hill's expansion in 1 / (df - 1/2)^2."""
    a = df - 0.5
    b = 48 * a * a
    y = a * torch.logaddexp(torch.zeros_like(size), 2 * torch.log(size) - math.log(df))
    change = (((-0.4 * y - 3.3) * y - 24) * y - 85.5) / (0.8 * y.square() + 100 + b) + y + 3
    return (change / b + 1) * torch.sqrt(y)
