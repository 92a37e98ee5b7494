"""gather_patches of the native library. It is linear: its backward is an op whose own backward is gather_patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mdnkernels.native import library


def gather_patches(feature: Tensor, index: Tensor, kernel_size: int) -> Tensor:
    """See `mdnkernels.gather_patches`. `feature` is (B, C, H, W), `index` (B, N)."""
    return torch.ops.mdnkernels.gather_patches(feature, index, kernel_size)


def _fake(feature: Tensor, index: Tensor, kernel_size: int) -> Tensor:
    return feature.new_empty(feature.shape[0], index.shape[1], feature.shape[1] * kernel_size**2)


def _fake_backward(
    grad_patches: Tensor, index: Tensor, size: Sequence[int], stride: Sequence[int], kernel_size: int
) -> Tensor:
    return grad_patches.new_empty_strided(size, stride)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feature, index, ctx.kernel_size = inputs
    ctx.set_materialize_grads(False)
    # Sizes and strides, not the feature itself, which may be freed before the backward pass. Those of a feature that
    # is not dense (sliced, expanded) become those that its copy would have.
    ctx.size, ctx.stride = feature.shape, torch.empty_like(feature, device="meta").stride()
    ctx.save_for_backward(index)


def _backward(ctx: Any, grad_patches: Tensor | None) -> tuple[Tensor | None, None, None]:
    (index,) = ctx.saved_tensors
    if grad_patches is None or not ctx.needs_input_grad[0]:
        return None, None, None
    backward = torch.ops.mdnkernels.gather_patches_backward
    return backward(grad_patches, index, ctx.size, ctx.stride, ctx.kernel_size), None, None


def _setup_context_of_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, index, _, _, ctx.kernel_size = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(index)


def _backward_of_backward(ctx: Any, grad_gradient: Tensor | None) -> tuple[Tensor | None, None, None, None, None]:
    (index,) = ctx.saved_tensors
    if grad_gradient is None or not ctx.needs_input_grad[0]:
        return None, None, None, None, None
    return gather_patches(grad_gradient, index, ctx.kernel_size), None, None, None, None


if library.problem is None:
    torch.library.register_fake("mdnkernels::gather_patches", _fake)
    torch.library.register_fake("mdnkernels::gather_patches_backward", _fake_backward)
    torch.library.register_autograd("mdnkernels::gather_patches", _backward, setup_context=_setup_context)
    torch.library.register_autograd(
        "mdnkernels::gather_patches_backward", _backward_of_backward, setup_context=_setup_context_of_backward
    )
