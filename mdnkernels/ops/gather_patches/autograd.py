"""gather_patches of a namespace, whose backward pass is an op too."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor


def patches_output(feature: Tensor, index: Tensor, kernel_size: int) -> Tensor:
    return feature.new_empty(feature.shape[0], index.shape[1], feature.shape[1] * kernel_size**2)


def _feature_gradient_output(
    grad_patches: Tensor, index: Tensor, size: Sequence[int], stride: Sequence[int], kernel_size: int
) -> Tensor:
    return grad_patches.new_empty_strided(size, stride)


def _patches_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feature, index, ctx.kernel_size = inputs
    ctx.set_materialize_grads(False)
    # Sizes and strides, not the feature itself, which may be freed before the backward pass. Those of a feature that
    # is not dense (sliced, expanded) become those that its copy would have.
    ctx.size, ctx.stride = feature.shape, torch.empty_like(feature, device="meta").stride()
    ctx.save_for_backward(index)


def _patches_backward(namespace: str, ctx: Any, grad_patches: Tensor | None) -> tuple[Tensor | None, None, None]:
    (index,) = ctx.saved_tensors
    if grad_patches is None or not ctx.needs_input_grad[0]:
        return None, None, None
    backward = getattr(torch.ops, namespace).gather_patches_backward
    return backward(grad_patches, index, ctx.size, ctx.stride, ctx.kernel_size), None, None


def _feature_gradient_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, index, _, _, ctx.kernel_size = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(index)


def _feature_gradient_backward(
    namespace: str, ctx: Any, grad_gradient: Tensor | None
) -> tuple[Tensor | None, None, None, None, None]:
    (index,) = ctx.saved_tensors
    if grad_gradient is None or not ctx.needs_input_grad[0]:
        return None, None, None, None, None
    patches = getattr(torch.ops, namespace).gather_patches(grad_gradient, index, ctx.kernel_size)
    return patches, None, None, None, None


def register(namespace: str, backend: str) -> None:
    """Register shapes and gradients. The op is linear: its backward is an op whose own backward is gather_patches."""
    for op, output, backward, context in (
        ("gather_patches", patches_output, _patches_backward, _patches_context),
        ("gather_patches_backward", _feature_gradient_output, _feature_gradient_backward, _feature_gradient_context),
    ):
        torch.library.register_fake(f"{namespace}::{op}", output)
        torch.library.register_autograd(f"{namespace}::{op}", partial(backward, namespace), setup_context=context)


def gather_patches(namespace: str, feature: Tensor, index: Tensor, kernel_size: int) -> Tensor:
    """See `mdnkernels.gather_patches`. `feature` is (B, C, H, W), `index` (B, N)."""
    return getattr(torch.ops, namespace).gather_patches(feature, index, kernel_size)
