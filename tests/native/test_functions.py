"""The elementary functions of csrc/core/functions.h against float64 and mpmath, at every SIMD level of this machine."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch

from mdnkernels import native
from tests.native.simd import LEVELS, run_at_level


@pytest.mark.parametrize("level", LEVELS)
def test_functions_are_within_their_ulps_over_the_whole_range(level):
    run_at_level("from tests.native import ulp; ulp.dense()", level)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_exp_and_log_are_within_one_ulp_at_every_float32_number(level):
    run_at_level("from tests.native import ulp; ulp.exhaustive()", level)


@pytest.mark.skipif(native.problem is not None, reason=str(native.problem))
@pytest.mark.parametrize("name", ["exp", "log", "log1p"])
def test_float64_agrees_with_extended_precision(name):
    generator = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(1000, generator=generator, dtype=torch.float64) * (high - low) + low

    x = {
        "exp": torch.cat([uniform(-745, 709), uniform(-1, 1), uniform(-1e-8, 1e-8)]),
        "log": torch.cat([10.0 ** uniform(-323, 308), uniform(0.5, 2), 1 + uniform(-1e-8, 1e-8)]),
        "log1p": torch.cat([10.0 ** uniform(-323, 0), uniform(0, 1), uniform(0, 1e-8)]),
    }[name]
    x = x[: x.numel() // 16 * 16]
    y = torch.ops.mdnkernels.apply_function(x, name)
    with mpmath.workdps(40):
        for argument, actual in zip(x.tolist(), y.tolist(), strict=True):
            expected = getattr(mpmath, name)(mpmath.mpf(argument))
            assert abs(mpmath.mpf(actual) - expected) <= 2 * mpmath.mpf(math.ulp(float(expected))), argument


@pytest.mark.skipif(native.problem is not None, reason=str(native.problem))
def test_float64_keeps_nan_infinities_and_zeros():
    special = [math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 5e-324, 710.0, -746.0, 1.0]
    x = torch.tensor(special + [1.0] * 6, dtype=torch.float64)
    for name in ("exp", "log"):
        y = torch.ops.mdnkernels.apply_function(x, name)
        torch.testing.assert_close(y, getattr(torch, name)(x), rtol=1e-15, atol=0, equal_nan=True)
    assert torch.ops.mdnkernels.apply_function(x, "log1p")[[0, 3, 4]].tolist()[1:] == [0, 0]
    assert torch.ops.mdnkernels.apply_function(x, "log1p")[0].isnan()
