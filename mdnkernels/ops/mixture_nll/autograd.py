"""mixture_nll of a namespace: its gradients come along with the loss."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from mdnkernels.mixture.families import Family
from mdnkernels.ops.derivatives import refuse_second_derivative, scaled

Loss = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def mixture_nll_outputs(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    family: str,
    family_parameter: float,
    scale_activation: str,
    min_scale: float,
    reduction: str,
    parameter_gradients: bool,
    target_gradient: bool,
) -> Loss:
    """Return empty outputs of the op: its fake kernel, and what a kernel in Python fills.

    Beside an index the gradients are those of the gathered points; those of half-precision inputs stay in float32 until
    they have been multiplied by what comes from above, for a mean's would underflow.
    """
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


def _mixture_nll_context(ctx: Any, inputs: tuple[Any, ...], output: Loss) -> None:
    index = inputs[6]
    ctx.positions = inputs[0].shape[2]
    ctx.dtypes = [value.dtype for value in inputs[:4]]
    ctx.gradients_made = inputs[-2:]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # the gradients are outputs too, and zeros of their size would be made for them
    ctx.save_for_backward(index, *output[1:])


def _mixture_nll_backward(
    namespace: str, backend: str, ctx: Any, grad_loss: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    refuse_second_derivative("mixture_nll", backend)
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
        result = scaled(gradient, grad_loss)
        if index is not None and i < 3:
            result = getattr(torch.ops, namespace).scatter_points(result, index, ctx.positions)
        results[i] = result.to(ctx.dtypes[i])
    return *results, *[None] * 11


def _scatter_points_output(values: Tensor, index: Tensor, positions: int) -> Tensor:
    return values.new_empty(*values.shape[:2], positions)


def register(namespace: str, backend: str) -> None:
    """Register the op's shapes and gradient, and those of scatter_points, which the gradient calls beside an index."""
    torch.library.register_fake(f"{namespace}::scatter_points", _scatter_points_output)
    torch.library.register_fake(f"{namespace}::mixture_nll", mixture_nll_outputs)
    backward = partial(_mixture_nll_backward, namespace, backend)
    torch.library.register_autograd(f"{namespace}::mixture_nll", backward, setup_context=_mixture_nll_context)


def mixture_nll(
    namespace: str,
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    family: Family,
    scale_activation: str,
    min_scale: float,
    reduction: str,
) -> Tensor:
    """See `mdnkernels.mixture_nll`. All tensors are (B, K, P); with `index`, target, mask, weight are (B, K, N)."""
    recording = torch.is_grad_enabled()
    return getattr(torch.ops, namespace).mixture_nll(
        *(logits, loc, scale, target, mask, weight, index, dim_scale),
        *(family.name, family.parameter, scale_activation, min_scale, reduction),
        recording and (logits.requires_grad or loc.requires_grad or scale.requires_grad),
        recording and target.requires_grad,
    )[0]
