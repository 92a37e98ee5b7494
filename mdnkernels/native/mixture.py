"""mixture_nll of the native library: one call gives the loss and, where they will be wanted, its gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mdnkernels.native import library

Result = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def mixture_nll(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    family: str,
    scale_activation: str,
    min_scale: float,
    reduction: str,
) -> Tensor:
    """See `mdnkernels.mixture_nll`. All tensors are (B, K, P); with `index`, target, mask, weight are (B, K, N)."""
    recording = torch.is_grad_enabled()
    return torch.ops.mdnkernels.mixture_nll(
        logits,
        loc,
        scale,
        target,
        mask,
        weight,
        index,
        dim_scale,
        family,
        scale_activation,
        min_scale,
        reduction,
        recording and (logits.requires_grad or loc.requires_grad or scale.requires_grad),
        recording and target.requires_grad,
    )[0]


def _fake(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    family: str,
    scale_activation: str,
    min_scale: float,
    reduction: str,
    parameter_gradients: bool,
    target_gradient: bool,
) -> Result:
    batch, _, points = target.shape
    accumulate = torch.promote_types(loc.dtype, torch.float32)
    loss = target.new_empty((batch, points) if reduction == "none" else (), dtype=accumulate)

    def gradient(of: Tensor, wanted: bool, gathered: bool) -> Tensor:
        if not wanted:
            return of.new_empty(0, dtype=accumulate)
        if gathered or of.dtype != accumulate:
            return of.new_empty(batch, of.shape[1], points, dtype=accumulate)
        return torch.empty_like(of)

    parameters = (gradient(of, parameter_gradients, index is not None) for of in (logits, loc, scale))
    return loss, *parameters, gradient(target, target_gradient, False)  # type: ignore[return-value]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Result) -> None:
    index = inputs[6]
    ctx.positions = inputs[0].shape[2]
    ctx.dtypes = [value.dtype for value in inputs[:4]]
    ctx.gradients_made = inputs[-2:]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # the gradients are outputs too, and zeros of their size would be made for them
    ctx.save_for_backward(index, *output[1:])


def _scaled(gradient: Tensor, grad_loss: Tensor) -> Tensor:
    """`gradient`, of the loss, times what the loss itself is multiplied by further on."""
    if grad_loss.ndim == 0 and type(grad_loss) is Tensor and grad_loss.device.type == "cpu" and grad_loss.item() == 1:
        return gradient  # looking costs nothing on the CPU, and saves touching all of its memory once more
    factor = grad_loss if grad_loss.ndim == 0 else grad_loss.unsqueeze(1)
    return gradient * factor


def _backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # create_graph=True
        raise NotImplementedError(
            "mixture_nll of the native backend is differentiable once; "
            'for second derivatives run it within mdnkernels.use_backend("eager")'
        )
    index, *gradients = ctx.saved_tensors
    parameters_made, target_made = ctx.gradients_made
    results: list[Tensor | None] = [None] * 4
    for i, gradient in enumerate(gradients):
        if grad_loss is None or not ctx.needs_input_grad[i]:
            continue
        if not (target_made if i == 3 else parameters_made):
            raise RuntimeError(
                "mixture_nll was traced when its inputs required no gradient, so this graph makes none: "
                "trace or export it with inputs that require gradients"
            )
        result = _scaled(gradient, grad_loss)
        if index is not None and i < 3:
            result = torch.ops.mdnkernels.scatter_points(result, index, ctx.positions)
        results[i] = result.to(ctx.dtypes[i])
    return *results, *[None] * 10


def _fake_scatter_points(values: Tensor, index: Tensor, positions: int) -> Tensor:
    return values.new_empty(*values.shape[:2], positions)


if library.problem is None:
    torch.library.register_fake("mdnkernels::scatter_points", _fake_scatter_points)
    torch.library.register_fake("mdnkernels::mixture_nll", _fake)
    torch.library.register_autograd("mdnkernels::mixture_nll", _backward, setup_context=_setup_context)
