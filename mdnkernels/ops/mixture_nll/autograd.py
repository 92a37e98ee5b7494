"""mixture_nll of a namespace: its gradients come along with the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mdnkernels.mixture.arguments import unflatten
from mdnkernels.mixture.density import Density
from mdnkernels.mixture.objective import Objective
from mdnkernels.ops.derivatives import refuse_second_derivative, scaling
from mdnkernels.ops.mixture_nll.arguments import each_in_points, each_unflattened, in_points

Loss = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

# Places of the op's arguments: the differentiable ones, in the order of their gradients among the outputs.
_DIFFERENTIABLE = 5
_INDEX = 7
_ARGUMENTS = 25

_BACKENDS: dict[str, str] = {}  # the backend of each namespace of ops


def mixture_nll_outputs(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    tril: Tensor | None,
    mask: Tensor | None,
    weight: Tensor | None,
    index: Tensor | None,
    *others: Any,
) -> Loss:
    """Return empty outputs of the op: its fake kernel, and what a kernel in Python fills.

    The arguments are those of csrc/ops/mixture_nll/call.h, reduction and which gradients are wanted the last ones.
    Beside an index the gradients are those of the gathered points; those of half-precision inputs stay in float32 until
    they have been multiplied by what comes from above, for a mean's would underflow.
    """
    reduction, parameter_gradients, target_gradient = others[-3:]
    batch, _, points = target.shape
    accumulate = torch.promote_types(loc.dtype, torch.float32)
    loss = target.new_empty((batch, points) if reduction == "none" else (), dtype=accumulate)

    def gradient(of: Tensor, wanted: bool, gathered: bool) -> Tensor:
        if not wanted:
            return of.new_empty(0, dtype=accumulate)
        if gathered or of.dtype != accumulate:
            return of.new_empty(batch, of.shape[1], points, dtype=accumulate)
        return torch.empty_like(of)

    of_parameters = [gradient(of, parameter_gradients, index is not None) for of in (logits, loc, scale)]
    of_tril = gradient(loc if tril is None else tril, tril is not None and parameter_gradients, index is not None)
    return loss, *of_parameters, gradient(target, target_gradient, False), of_tril  # type: ignore[return-value]


def mixture_posterior_output(logits: Tensor, loc: Tensor, scale: Tensor, target: Tensor, *others: Any) -> Tensor:
    """Return the empty output of mixture_posterior, as `mixture_nll_outputs` does."""
    dtype = torch.promote_types(loc.dtype, torch.float32)
    return logits.new_empty(logits.shape[0], logits.shape[1], target.shape[2], dtype=dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Loss) -> None:
    """Keep what the backward pass needs."""
    ctx.positions = inputs[0].shape[2]
    ctx.dtypes = [None if value is None else value.dtype for value in inputs[:_DIFFERENTIABLE]]
    ctx.gradients_made = inputs[-2:]
    ctx.set_materialize_grads(False)  # the gradients are outputs too, and zeros of their size would be made for them
    ctx.save_for_backward(inputs[_INDEX], *output[1:])


def _mixture_nll_context(ctx: Any, inputs: tuple[Any, ...], output: Loss) -> None:
    ctx.mark_non_differentiable(*output[1:])
    _keep(ctx, inputs, output)


def _mixture_nll_backward(
    namespace: str, backend: str, ctx: Any, grad_loss: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    refuse_second_derivative("mixture_nll", backend)
    index, *gradients = ctx.saved_tensors
    parameters_made, target_made = ctx.gradients_made
    results: list[Tensor | None] = [None] * _DIFFERENTIABLE
    scaled = None if grad_loss is None else scaling(grad_loss)
    for i, gradient in enumerate(gradients):
        if scaled is None or not ctx.needs_input_grad[i]:
            continue
        if not (target_made if i == 3 else parameters_made):
            raise RuntimeError(
                "mixture_nll was traced when its inputs required no gradient, so this graph makes none: "
                "trace or export it with inputs that require gradients"
            )
        result = scaled(gradient)
        if index is not None and i != 3:
            result = getattr(torch.ops, namespace).scatter_points(result, index, ctx.positions)
        results[i] = result.to(ctx.dtypes[i])
    return *results, *[None] * (_ARGUMENTS - _DIFFERENTIABLE)


class _MixtureNLL(torch.autograd.Function):
    """The op outside of a traced graph: torch.library's own way to its gradient reads the schema anew in each call,
    which takes longer than a small call computes."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """Run the op of a namespace: inputs are its own, of any *P, then the namespace."""
        *inputs, ctx.namespace = inputs  # type: ignore[assignment]
        index, ctx.shapes = inputs[_INDEX], [None if each is None else each.shape for each in inputs[:_DIFFERENTIABLE]]
        with torch._C._AutoDispatchBelowAutograd():
            inputs = _in_points(inputs)
            output = getattr(torch.ops, ctx.namespace).mixture_nll(*inputs)
            loss = output[0] if output[0].ndim == 0 else each_unflattened(output[0], ctx.shapes[0][2:], index)
        _keep(ctx, inputs, output)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None) -> Any:
        index = ctx.saved_tensors[0]
        if grad_loss is not None and grad_loss.ndim > 0:
            # (B, *P) as (B, P), not by flatten, which the vmap behind is_grads_batched does not know.
            batch, *points = grad_loss.shape
            rows = len(points) == 0
            grad_loss = grad_loss.unsqueeze(0) if rows else grad_loss.reshape(batch, math.prod(points))
        results = _mixture_nll_backward(ctx.namespace, _BACKENDS[ctx.namespace], ctx, grad_loss)
        shaped = (
            None if result is None else _shaped(result, shape, None if i == 3 else index)
            for i, (result, shape) in enumerate(zip(results, ctx.shapes, strict=False))
        )
        return *shaped, *[None] * (_ARGUMENTS - _DIFFERENTIABLE + 1)


def _in_points(inputs: Sequence[Any]) -> tuple[Any, ...]:
    """Return the op's inputs with tensors of any *P as (B, K, P), or (B, P)."""
    index = inputs[_INDEX]
    of_channels = in_points(index, *inputs[: _DIFFERENTIABLE + 1])
    weight, assigned = each_in_points(index, inputs[_DIFFERENTIABLE + 1], inputs[_INDEX + 2])
    return *of_channels, weight, index, inputs[_INDEX + 1], assigned, *inputs[_INDEX + 3 :]


def _shaped(gradient: Tensor, shape: torch.Size, index: Tensor | None) -> Tensor:
    """Return a gradient (B, K, P) in the shape of its argument (B, K, *P); rows (B, K) were the points of one map."""
    if len(shape) == 2 and index is None:
        return gradient.squeeze(0).t()
    return gradient if gradient.ndim == len(shape) else gradient.reshape(shape)


def _scatter_points_output(values: Tensor, index: Tensor, positions: int) -> Tensor:
    return values.new_empty(*values.shape[:2], positions)


def register(namespace: str, backend: str) -> None:
    """Register the op's shapes and gradient, and those of scatter_points, which the gradient calls beside an index."""
    torch.library.register_fake(f"{namespace}::scatter_points", _scatter_points_output)
    torch.library.register_fake(f"{namespace}::mixture_nll", mixture_nll_outputs)
    torch.library.register_fake(f"{namespace}::mixture_posterior", mixture_posterior_output)
    _BACKENDS[namespace] = backend
    backward = partial(_mixture_nll_backward, namespace, backend)
    torch.library.register_autograd(f"{namespace}::mixture_nll", backward, setup_context=_mixture_nll_context)


def mixture_nll(
    namespace: str,
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    tril: Tensor | None,
    mask: Tensor | None,
    weight: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    assigned: Tensor | None,
    density: Density,
    objective: Objective,
    reduction: str,
) -> Tensor:
    """See `mdnkernels.mixture_nll`."""
    recording = torch.is_grad_enabled()
    parameters = (logits, loc, scale) if tril is None else (logits, loc, scale, tril)
    of_parameters = recording and any(value.requires_grad for value in parameters)
    of_target = recording and target.requires_grad
    inputs = (
        *(logits, loc, scale, target, tril, mask, weight, index, dim_scale, assigned),
        *(*density.options, *objective.options, reduction, of_parameters, of_target),
    )
    if (of_parameters or of_target) and not torch.compiler.is_compiling():
        return _MixtureNLL.apply(*inputs, namespace)
    loss: Tensor = getattr(torch.ops, namespace).mixture_nll(*_in_points(inputs))[0]
    return loss if loss.ndim == 0 else each_unflattened(loss, logits.shape[2:], index)


def mixture_posterior(
    namespace: str,
    logits: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    tril: Tensor | None,
    mask: Tensor | None,
    index: Tensor | None,
    dim_scale: Tensor | None,
    density: Density,
    temperature: float,
) -> Tensor:
    """See `mdnkernels.mixture_posterior`."""
    batch, _, *positions = logits.shape
    tensors = (None if each is None else each.detach() for each in (logits, loc, scale, target, tril))
    of_channels = in_points(index, *tensors, mask)
    op = getattr(torch.ops, namespace).mixture_posterior
    posterior: Tensor = op(*of_channels, index, dim_scale, *density.options, temperature)
    return unflatten(posterior, batch, positions, index)
