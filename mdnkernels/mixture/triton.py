"""The formulas of csrc/mixture/ in Triton: families, scale activations, and what is minimised.

Families, activations and assignments are chosen by constants of the kernel; the kernels themselves ask nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mdnkernels.triton.functions import log1p

# The value as a multiple of the pull, for families where it is one: the sum of the pulls, which the scale's gradient
# takes, then gives the values too, and takes no further registers.
VALUE_OF_PULL = {"gaussian": 0.5, "laplace": 1.0}


@triton.jit
def gaussian(z):
    return 0.5 * z * z, z, z * z


@triton.jit
def laplace(z):
    return tl.abs(z), tl.where(z > 0, 1.0, tl.where(z < 0, -1.0, z)), tl.abs(z)


@triton.jit
def student_t(z, df: tl.constexpr):
    root = tl.abs(z) * df**-0.5
    inner = tl.minimum(root, 1 / root)  # log(1 + x) = log(x) + log(1 + 1 / x): no square overflows
    outer = tl.maximum(root, 1.0)
    slope = (df + 1) / (df / z + z)
    return (df + 1) / 2 * (log1p(inner * inner) + 2 * tl.log(outer)), slope, z * slope


@triton.jit
def complement(x):
    """Return 1 - e^-x for x >= 0, to rounding where x is small too."""
    u = tl.exp(-x)
    d = 1 - u
    if x.dtype == tl.float64:
        inside = (d != 0) & (u != 0)
        near = d * (x / -tl.log(tl.where(inside, u, 0.5)))  # Kahan: the rounding of u cancels
        result = tl.where(inside, near, tl.where(d == 0, x, 1.0))
    else:
        p = 1 - x * (1 / 8)  # the series of x (1 - x/2 (1 - x/3 (...))), to rounding below 1/2
        p = 1 - x * (1 / 7) * p
        p = 1 - x * (1 / 6) * p
        p = 1 - x * (1 / 5) * p
        p = 1 - x * (1 / 4) * p
        p = 1 - x * (1 / 3) * p
        p = 1 - x * (1 / 2) * p
        result = tl.where(x < 0.5, x * p, d)
    return result


@triton.jit
def logistic(z):
    size = tl.abs(z)
    e = tl.exp(-size)
    slope = (1 - e if z.dtype == tl.float64 else complement(size)) / (1 + e)  # tanh(|z| / 2)
    return size + 2 * log1p(e), tl.where(z < 0, -slope, slope), size * slope


@triton.jit
def softplus_and_sigmoid(x):
    """Return log(1 + e^x) and 1 / (1 + e^-x), without overflow and to rounding in both tails."""
    e = tl.exp(-tl.abs(x))
    return tl.where(x > 0, x, 0.0) + log1p(e), tl.where(x > 0, 1.0, e) / (1 + e)


@triton.jit
def discretised_logistic(z, inverse, bin_width: tl.constexpr):
    """Return -log(F(z + h) - F(z - h)) and its derivatives, with half a bin h: no term cancels another."""
    h = 0.5 * bin_width * inverse
    bins = complement(2 * h)
    softplus_above, above = softplus_and_sigmoid(z - h)
    softplus_below, below = softplus_and_sigmoid(-z - h)
    slope = above - below
    pull = z * slope - h * (above + below) - 2 * h * (1 - bins) / bins
    return softplus_above + softplus_below - tl.log(bins), slope, pull


@triton.jit
def terms_of(z, inverse, FAMILY: tl.constexpr, parameter: tl.constexpr):
    """Return a dimension's value, slope and pull, of z and `inverse` = 1 / (sigma kappa).

    The value is what it adds to -log phi beside log sigma and the family's constant, the slope is its
    derivative by z, and the pull is -sigma times that by sigma: z times the slope where the value is one of z alone.
    """
    if FAMILY == "gaussian":
        value, slope, pull = gaussian(z)
    elif FAMILY == "laplace":
        value, slope, pull = laplace(z)
    elif FAMILY == "logistic":
        value, slope, pull = logistic(z)
    elif FAMILY == "discretised_logistic":
        value, slope, pull = discretised_logistic(z, inverse, parameter)
    else:
        tl.static_assert(FAMILY == "student_t")
        value, slope, pull = student_t(z, parameter)
    return value, slope, pull


@triton.jit
def activate(raw, ACTIVATION: tl.constexpr, min_scale):
    """Return sigma = act(raw) + min_scale and d sigma / d raw.

    ELU(x) + 1 is e^x for x <= 0, which keeps small sigmas.
    """
    if ACTIVATION == "elu":
        derivative = tl.exp(tl.where(raw > 0, 0.0, raw))
        sigma = tl.where(raw > 0, raw + 1, derivative) + min_scale
    elif ACTIVATION == "softplus":
        e = tl.exp(-tl.abs(raw))
        sigma = tl.where(raw > 0, raw, 0.0) + log1p(e) + min_scale
        derivative = tl.where(raw > 0, 1.0, e) / (1 + e)
    elif ACTIVATION == "exp":
        derivative = tl.exp(raw)
        sigma = derivative + min_scale
    else:
        sigma = raw
        derivative = tl.full(raw.shape, 1.0, raw.dtype)
    return sigma, derivative


@triton.jit
def spread_of(raw, ACTIVATION: tl.constexpr, min_scale: tl.constexpr):
    """Return log sigma, 1 / sigma and d log sigma / d raw: with "exp" finite where sigma itself overflows."""
    if ACTIVATION == "exp":
        if min_scale == 0:
            log_sigma = raw
            inverse = tl.exp(-raw)
            derivative = tl.full(raw.shape, 1.0, raw.dtype)
        else:
            # sigma over e^raw where that is above 1: nothing overflows.
            e = tl.exp(-tl.abs(raw))
            reciprocal = 1 / tl.where(raw > 0, 1 + min_scale * e, e + min_scale)
            log_sigma = tl.where(raw > 0, raw, 0.0) - tl.log(reciprocal)
            inverse = tl.where(raw > 0, e, 1.0) * reciprocal
            derivative = tl.where(raw > 0, 1.0, e) * reciprocal
    else:
        sigma, slope = activate(raw, ACTIVATION, min_scale)
        inverse = 1 / sigma
        log_sigma = tl.log(sigma)
        derivative = slope * inverse
    return log_sigma, inverse, derivative


@triton.jit
def loss_and_shares(evidence, m, assigned, tau, ASSIGN: tl.constexpr, TEMPERED: tl.constexpr):
    """Return the loss and each component's share r of its gradient, of e_m = log alpha_m + log phi_m along axis 0.

    m: the numbers of the components. assigned: the component of each position, where ASSIGN is "given". tau: the
    temperature, where it is not 1.
    """
    if TEMPERED:
        evidence = evidence / tau
    best = tl.max(evidence, 0, keep_dims=True)
    best = tl.where(best == -float("inf"), 0.0, best)  # no density at all: the loss is inf, not inf - inf
    shares = tl.exp(evidence - best)
    likelihood = tl.sum(shares, 0, keep_dims=True)
    if ASSIGN == "likelihood":
        loss = -(best + tl.log(likelihood))
        shares = shares / likelihood
        if TEMPERED:
            loss = loss * tau
    else:
        if ASSIGN == "best":
            chosen = tl.min(tl.where(evidence == best, m, evidence.shape[0]), 0, keep_dims=True)
        else:
            chosen = assigned
        loss = -tl.sum(tl.where(m == chosen, evidence, 0.0), 0, keep_dims=True)
        if ASSIGN == "best":  # none of the components is the largest where one is NaN, or all are -inf
            loss = tl.where(chosen < evidence.shape[0], loss, -tl.log(likelihood))
            loss = tl.where(likelihood == likelihood, loss, likelihood)
        shares = tl.where(m == chosen, 1.0, tl.zeros_like(evidence))
    return loss, shares
