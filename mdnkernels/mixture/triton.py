"""The formulas of csrc/mixture/ in Triton: families and scale activations.

Families and activations are chosen by constants of the kernel; the kernels themselves ask nothing.
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
def terms_of(z, FAMILY: tl.constexpr, parameter: tl.constexpr):
    """Return a dimension's value, slope and pull.

    The value is what it adds to -log phi beside log sigma and the family's constant, the slope is its
    derivative by z, and the pull is z times the slope.
    """
    if FAMILY == "gaussian":
        value, slope, pull = gaussian(z)
    elif FAMILY == "laplace":
        value, slope, pull = laplace(z)
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
