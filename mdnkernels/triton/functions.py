"""The formulas of csrc/core/functions.h and csrc/mixture/ in Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def log1p(x):
    """Return log(1 + x) for x in [0, 1], exact to rounding: the GPU's own logarithm of a number near 1 is not."""
    if x.dtype == tl.float64:
        u = 1 + x
        d = u - 1
        result = tl.where(d == 0, x, tl.log(u) * (x / tl.where(d == 0, 1.0, d)))  # Kahan: the rounding of u cancels
    else:
        t = x / (2 + x)  # log(1 + x) = 2 artanh(t), and t is at most 1/3
        t2 = t * t
        p = 1 / 13 + t2 * (1 / 15)
        p = 1 / 11 + t2 * p
        p = 1 / 9 + t2 * p
        p = 1 / 7 + t2 * p
        p = 1 / 5 + t2 * p
        p = 1 / 3 + t2 * p
        result = 2 * (t + t * (t2 * p))
    return result


@triton.jit
def activate(raw, ACTIVATION: tl.constexpr, min_scale):
    """sigma = act(raw) + min_scale, and d sigma / d raw. ELU(x) + 1 is e^x for x <= 0, which keeps small sigmas."""
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
