"""heatmap_focal_loss of a namespace: its gradient comes along with the loss."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from mdnkernels.ops.derivatives import refuse_second_derivative, scaled


def _in_one_order(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as they are where they lie in memory in one order without gaps, else copies that do."""
    for layout in (torch.contiguous_format, torch.channels_last, torch.channels_last_3d):
        if logits.is_contiguous(memory_format=layout) and target.is_contiguous(memory_format=layout):
            return logits, target
    return logits.contiguous(), target.contiguous()


def focal_outputs(logits: Tensor, logits_gradient: bool) -> tuple[Tensor, Tensor]:
    """Return empty outputs of a focal loss, as `mixture_nll_outputs` does."""
    loss = logits.new_empty((), dtype=torch.promote_types(logits.dtype, torch.float32))
    return loss, torch.empty_like(logits) if logits_gradient else logits.new_empty(0)


def heatmap_focal_loss_outputs(
    logits: Tensor, target: Tensor, alpha: float, beta: float, logits_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Return empty outputs of the op, as `mixture_nll_outputs` does."""
    return focal_outputs(logits, logits_gradient)


def focal_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep the gradient, which is the second output of a focal loss, for its backward pass."""
    ctx.inputs, ctx.gradient_made = len(inputs), inputs[-1]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # the gradient is an output too, and zeros of its size would be made for it
    ctx.save_for_backward(output[1])


def focal_backward(
    op: str, backend: str, ctx: Any, grad_loss: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Return the gradients of a focal loss, of which its logits, the first input, alone have one."""
    refuse_second_derivative(op, backend)
    others = (None,) * (ctx.inputs - 1)
    if grad_loss is None:
        return None, *others
    if not ctx.gradient_made:
        raise RuntimeError(
            f"{op} was traced when its inputs required no gradient, so this graph makes none: "
            "trace or export it with inputs that require gradients"
        )
    (gradient,) = ctx.saved_tensors
    return scaled(gradient, grad_loss).to(gradient.dtype), *others


def register(namespace: str, backend: str) -> None:
    """Register the op's shapes and gradient."""
    torch.library.register_fake(f"{namespace}::heatmap_focal_loss", heatmap_focal_loss_outputs)
    backward = partial(focal_backward, "heatmap_focal_loss", backend)
    torch.library.register_autograd(f"{namespace}::heatmap_focal_loss", backward, setup_context=focal_context)


def heatmap_focal_loss(namespace: str, logits: Tensor, target: Tensor, alpha: float, beta: float) -> Tensor:
    """See `mdnkernels.heatmap_focal_loss`. What does not lie in memory as the other does is copied first."""
    logits, target = _in_one_order(logits, target)
    recording = torch.is_grad_enabled() and logits.requires_grad
    return getattr(torch.ops, namespace).heatmap_focal_loss(logits, target, alpha, beta, recording)[0]
