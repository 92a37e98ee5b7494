"""The elementary functions of csrc/math/functions.h, against float64, at every SIMD level of this machine."""

from __future__ import annotations

import pytest

from tests.ops.simd import run_at_level

SCRIPT = """
import torch
import mdnkernels

def worst_ulp(name, x):
    x = x[: x.numel() // 16 * 16].contiguous()
    y = torch.ops.mdnkernels.apply_function(x, name)
    expected = getattr(torch, name)(x.double())
    rounded = expected.float()
    assert torch.equal(y.isnan(), rounded.isnan()), name
    assert torch.equal(y[rounded.isinf()], rounded[rounded.isinf()]), name
    normal = rounded.abs().clamp(min=2.0**-126)
    ulp = torch.nextafter(normal, torch.tensor(torch.inf)) - normal
    finite = rounded.isfinite()
    return ((y.double() - expected).abs() / ulp.double())[finite].max().item()

def bits(first, last, step):
    return torch.arange(first, last, step, dtype=torch.int64).to(torch.int32).view(torch.float32)

special = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, -1.0, 1e-45, 1e-39, 88.7, 88.8, -104.5, -87.4])
special = torch.cat([special, torch.tensor([1e4, -1e4, 3e38, -3e38])])
positive = torch.cat([bits(0, 0x7F800000, 997), torch.linspace(0.25, 4, 1 << 20)])
assert worst_ulp("exp", torch.cat([special, positive, -positive, torch.linspace(-104, 89, 1 << 20)])) < 1.1
assert worst_ulp("log", torch.cat([special, positive])) < 1
unit = torch.cat([bits(0, 0x3F800001, 997), torch.linspace(0, 1, 1 << 20)])
assert worst_ulp("log1p", unit) < 2.5  # the kernels call it on e^-|x| alone, which lies in [0, 1]
"""


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512", "neon"])
def test_exp_and_log_are_within_one_ulp_over_the_whole_range(level):
    run_at_level(SCRIPT, level)
