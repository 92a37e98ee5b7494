"""What an op gives and its gradients, and whether they agree with those of eager in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Of the largest element: rounding of inputs is shared by both sides, so this is the arithmetic and the result's dtype.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10, torch.bfloat16: 2e-2, torch.float16: 3e-3}
# How many of an op's arguments, from the first on, take gradients.
DIFFERENTIABLE = {
    "mixture_nll": 4,
    "mixture_mode": 3,
    "gather_patches": 1,
    "heatmap_focal_loss": 1,
    "topk_peaks": 0,
    "splat_gaussians": 0,
}


def widen(value: Any) -> Any:
    return value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value


def moved(value: Any, device: str) -> Any:
    """A tensor on another device, under the strides that it has."""
    if not isinstance(value, Tensor) or value.device.type == device:
        return value
    if device == "meta":
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    last = (
        sum((size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True)) if value.numel() else -1
    )
    storage = value.as_strided((last + 1,), (1,)).to(device)
    return storage.as_strided(value.shape, value.stride())


def results(
    function: Callable[..., Any], arguments: list[Any], options: dict[str, Any]
) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs, and the gradients of their sum with unequal factors for every argument that takes one.

    The factors are the gradients of the outputs, which autograd keeps in the outputs' dtype: every dtype holds them
    exactly, or a comparison of two dtypes would be one of two problems.
    """
    count = DIFFERENTIABLE[function.__name__]
    leaves = [value.detach().requires_grad_() for value in arguments[:count]]
    output = function(*leaves, *arguments[count:], **options)
    outputs = [output] if isinstance(output, Tensor) else [value for value in output if value is not None]
    sources = []
    for value in outputs:
        if value.requires_grad:
            factors = torch.linspace(32, 96, value.numel(), dtype=torch.float64, device=value.device).round() / 64
            sources.append((value.double() * factors.view(value.shape)).sum())
    if not sources:
        return outputs, []
    gradients = torch.autograd.grad(torch.stack(sources).sum(), leaves, allow_unused=True)
    return outputs, [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, gradients, strict=True)]


def assert_equal(actual: Tensor, expected: Tensor, dtype: torch.dtype, size: float) -> None:
    """Within TOLERANCE[dtype] of the largest element, or of `size` where that is larger; integers, NaN and infinities
    are the same."""
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
    """Both are what `results` gives. A gradient near 0 is a rest of terms whose size the other gradients show."""
    for a, e in zip(actual[0], expected[0], strict=True):
        assert_equal(a, e, dtype, 0.0)
    sizes = [g[g.isfinite()].abs().max().item() for g in expected[1] if g.isfinite().any()]
    for a, e in zip(actual[1], expected[1], strict=True):
        assert_equal(a, e, dtype, 0.1 * max(sizes, default=0.0))
