"""Errors of the native exp, log, log1p and tanh(x / 2) in units in the last place of float32."""

from __future__ import annotations

import torch
from torch import Tensor

import mdnkernels  # noqa: F401  loads the native library

_INF, _NAN = float("inf"), float("nan")
SPECIAL = torch.tensor([_NAN, _INF, -_INF, 0.0, -0.0, -1.0, 1.0, 1e-45, -1e-45, 1e-39, -1e-39, 2.0**-126, 3e38, -3e38])
EDGES = torch.tensor([88.7, 88.8, -104.5, -87.4, -103.9, 1e4, -1e4])  # of exp's results
FIRST_INFINITE = 0x7F800000


def bits(first: int, last: int, step: int = 1) -> Tensor:
    """Return the non-negative float32 numbers of these bit patterns, in rising order."""
    return torch.arange(first, last, step, dtype=torch.int32).view(torch.float32)


def binade(exponent: int) -> Tensor:
    """Return all 2^23 float32 numbers of one biased exponent, 0 (zero and the subnormals) to 255 (infinity and NaN)."""
    return (torch.arange(1 << 23, dtype=torch.int32) + (exponent << 23)).view(torch.float32)


def worst_ulp(name: str, x: Tensor, expected: Tensor | None = None) -> float:
    """Return the largest error at `x` against float64; NaN and infinities must be those of the rounded result.

    A result that float64 rounds to infinity may be the largest number, one that rounds to it infinity: 1 ulp.
    """
    x = x[: x.numel() // 16 * 16].contiguous()
    actual = torch.ops.mdnkernels.apply_function(x, name)
    expected = getattr(torch, name)(x.double()) if expected is None else expected
    rounded = expected.float()
    assert torch.equal(actual.isnan(), rounded.isnan()), name
    assert torch.equal(actual[rounded.isinf()], rounded[rounded.isinf()]), name
    assert torch.equal(actual[x == 0], rounded[x == 0]), name
    step = torch.frexp(rounded.abs().clamp(min=2.0**-126)).exponent - 24
    error = torch.ldexp((actual.double() - expected).abs(), -step)
    error = error[rounded.isfinite()]
    return error.max().item() if error.numel() else 0.0


def dense() -> None:
    """Yield each binade at 8416 places, the usual arguments densely, and every special value."""
    positive = torch.cat([bits(0, FIRST_INFINITE, 997), torch.linspace(0.25, 4, 1 << 20)])
    assert worst_ulp("exp", torch.cat([SPECIAL, EDGES, positive, -positive, torch.linspace(-104, 89, 1 << 20)])) < 1.1
    assert worst_ulp("log", torch.cat([SPECIAL, positive])) < 1
    # The kernels call it on e^-|x| alone, which lies in [0, 1].
    unit = torch.cat([bits(0, 0x3F800001, 997), torch.linspace(0, 1, 1 << 20), torch.zeros(16), -torch.zeros(16)])
    assert worst_ulp("log1p", unit) < 2
    any_sign = torch.cat([SPECIAL, positive, -positive, torch.linspace(-20, 20, 1 << 20)])
    assert worst_ulp("tanh_half", any_sign, torch.tanh(any_sign[: any_sign.numel() // 16 * 16].double() / 2)) < 4


def exhaustive() -> None:
    """Yield all 2^32 arguments of exp and log, and all of log1p in [0, 1]."""
    worst = dict.fromkeys(("exp", "log", "log1p"), 0.0)

    def add(name: str, x: Tensor, expected: Tensor | None = None) -> None:
        worst[name] = max(worst[name], worst_ulp(name, x, expected))

    for exponent in range(256):
        x = binade(exponent)
        for argument in (x, -x):
            tiny = exponent < 127 - 30  # exp(x) = 1 + x in float64: the square is below 2^-60
            add("exp", argument, 1 + argument.double() if tiny else None)
        add("log", x)
        assert torch.ops.mdnkernels.apply_function(-x, "log")[1 if exponent == 0 else 0 :].isnan().all()
        if exponent < 127:
            add("log1p", x)
    add("log1p", torch.ones(16))
    print(worst)
    assert worst["exp"] < 1.1, worst
    assert worst["log"] < 1, worst
    assert worst["log1p"] < 2, worst
