"""What an op gives and its gradients, and whether they agree with those of eager in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import mdnkernels
from tests.ops.table import Call

# Of the largest element: rounding of inputs is shared by both sides, so this is the arithmetic and the result's dtype.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def widened(value: Tensor) -> Tensor:
    """Return `value` in float64, where it is no integer."""
    return value.detach().double() if value.is_floating_point() else value


def moved(value: Tensor, device: str) -> Tensor:
    """Return a tensor on another device, under the strides that it has."""
    if value.device.type == device:
        return value
    if device == "meta":
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    last = (
        sum((size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True)) if value.numel() else -1
    )
    storage = value.as_strided((last + 1,), (1,)).to(device)
    return storage.as_strided(value.shape, value.stride())


def outputs_of(result: Any) -> list[Tensor]:
    """Return the tensors that an op gave."""
    return [result] if isinstance(result, Tensor) else [value for value in result if value is not None]


def factors_for(value: Tensor) -> Tensor:
    """Return a factor for each element of an output, each a different one.

    They become the gradients of the output, which autograd keeps in its dtype: every dtype holds them exactly, or a
    comparison of two dtypes would be one of two problems.
    """
    factors = torch.linspace(32, 96, value.numel(), dtype=torch.float64, device=value.device).round() / 64
    return factors.view(value.shape)


def weighted_sum(outputs: list[Tensor]) -> Tensor:
    """Return a scalar that depends on every element of every differentiable output, on each differently."""
    return torch.stack([(value.double() * factors_for(value)).sum() for value in outputs if value.requires_grad]).sum()


def results(call: Call, function: Callable[..., Any] | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """Return the outputs, and the gradients of their weighted sum for every argument that takes one.

    function: in the place of the call's own.
    """
    leaves = {name: call.arguments[name].detach().requires_grad_() for name in call.differentiable}
    outputs = outputs_of((function or call.function)(**{**call.arguments, **leaves}))
    if not any(value.requires_grad for value in outputs):
        return outputs, []
    gradients = torch.autograd.grad(weighted_sum(outputs), list(leaves.values()), allow_unused=True)
    return outputs, [
        torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves.values(), gradients, strict=True)
    ]


def expected_results(call: Call) -> tuple[list[Tensor], list[Tensor]]:
    """Return what eager gives in float64, on the device of the call's tensors."""
    with mdnkernels.use_backend("eager"):
        return results(call.changed(widened))


def assert_equal(actual: Tensor, expected: Tensor, dtype: torch.dtype, size: float) -> None:
    """Check that they are within TOLERANCE[dtype] of the largest element, or of `size` where that is larger.

    Integers, NaN and infinities must be the same.
    """
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    actual = actual.cpu()
    if not expected.is_floating_point():
        assert torch.equal(actual, expected), "integers differ"
        return
    actual, expected = actual.double(), expected.double()
    finite = expected.isfinite()
    torch.testing.assert_close(actual[~finite], expected[~finite], rtol=0, atol=0, equal_nan=True)
    if finite.any():
        error = (actual - expected)[finite].abs().max().item()
        size = max(expected[finite].abs().max().item(), size, 1e-3)
        assert error <= TOLERANCE[dtype] * size, f"error {error:.3g} where the largest is {size:.3g}"


def assert_agree(
    actual: tuple[list[Tensor], list[Tensor]], expected: tuple[list[Tensor], list[Tensor]], dtype: torch.dtype
) -> None:
    """Check two outcomes of `results` against one another.

    A gradient near 0 is a rest of terms whose size the other gradients show.
    """
    for a, e in zip(actual[0], expected[0], strict=True):
        assert_equal(a, e, dtype, 0.0)
    sizes = [g[g.isfinite()].abs().max().item() for g in expected[1] if g.isfinite().any()]
    for a, e in zip(actual[1], expected[1], strict=True):
        assert_equal(a, e, dtype, 0.1 * max(sizes, default=0.0))
