"""Every op once on one backend against eager in float64: outputs and gradients, in every dtype.

Small shapes come first. Their reference is computed on the CPU, so that nothing of the device vouches for itself. The
shapes that are timed follow, with the reference on the device.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

import mdnkernels
from benchmarks.gpu_check.items import Absent, Items, Options, name_of
from mdnkernels import backends
from tests.ops.agreement import assert_agree, expected_results, moved, results
from tests.ops.table import CASES, Call, Case

DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.float16)


def items(options: Options) -> Items:
    checks = {} if options.small else {"it is there": partial(check_there, options)}
    for case in CASES:
        for dtype in case.of.dtypes if options.small or len(case.of.dtypes) == 1 else DTYPES:
            checks[f"{case}, {name_of(dtype)}"] = partial(check, case, dtype, options)
    if not options.small:
        for case in CASES:
            for dtype in case.of.dtypes:
                checks[f"{case}, {name_of(dtype)}, as timed"] = partial(check_as_timed, case, dtype, options)
    return checks


def check_there(options: Options) -> None:
    """Fail unless the backend has every op: all backends must be there where a GPU is."""
    reasons = {backends.missing(op, options.backend, options.device) for op in backends.TABLE}
    assert reasons == {None}, "; ".join(reason for reason in reasons if reason)


def need(case: Case, options: Options) -> None:
    """Raise Absent where the backend cannot run the op on the device."""
    reason = backends.missing(case.entry.op, options.backend, options.device)
    if reason is not None:
        raise Absent(reason)


def check(case: Case, dtype: torch.dtype, options: Options) -> dict[str, Any]:
    """Compare a small call with the CPU's eager backend in float64."""
    need(case, options)
    call = case.call("cpu", dtype, small=True)
    expected = reference(call)
    with mdnkernels.use_backend(options.backend):
        actual = results(call.changed(lambda value: moved(value, options.device)))
    return compare(actual, expected, dtype)


def check_as_timed(case: Case, dtype: torch.dtype, options: Options) -> dict[str, Any]:
    """Compare the call that is timed with the device's eager backend in float64."""
    need(case, options)
    call = case.call(options.device, dtype)
    with mdnkernels.use_backend(options.backend):
        actual = results(call)
    return compare(actual, reference(call), dtype)


def reference(call: Call) -> tuple[list[Tensor], list[Tensor]]:
    outputs, gradients = expected_results(call)
    return [value.detach().cpu() for value in outputs], [value.cpu() for value in gradients]


def compare(
    actual: tuple[list[Tensor], list[Tensor]], expected: tuple[list[Tensor], list[Tensor]], dtype: torch.dtype
) -> dict[str, Any]:
    """Return the largest error as a share of the largest element of its tensor.

    Raises:
        AssertionError: a result is further off than its dtype's tolerance.
    """
    outputs, gradients = ([value.detach().cpu() for value in values] for values in actual)
    assert_agree((outputs, gradients), expected, dtype)
    errors = [
        float((a.double() - e.double()).abs().max() / e.double().abs().max().clamp(min=1e-300))
        for a, e in zip((*outputs, *gradients), (*expected[0], *expected[1]), strict=True)
        if e.is_floating_point() and e.numel()
    ]
    return {"error": max(errors, default=0.0)}
