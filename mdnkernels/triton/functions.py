"""The functions of csrc/core/functions.h in Triton."""

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
