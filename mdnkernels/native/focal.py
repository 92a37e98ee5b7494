"""heatmap_focal_loss of the native library: one call gives the loss and, where it will be wanted, its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mdnkernels.native import library


def heatmap_focal_loss(logits: Tensor, target: Tensor, alpha: float, beta: float) -> Tensor:
    """See `mdnkernels.heatmap_focal_loss`. What does not lie in memory as the other does is copied first."""
    if not any(
        logits.is_contiguous(memory_format=layout) and target.is_contiguous(memory_format=layout)
        for layout in (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)
    ):
        logits, target = logits.contiguous(), target.contiguous()
    recording = torch.is_grad_enabled() and logits.requires_grad
    return torch.ops.mdnkernels.heatmap_focal_loss(logits, target, alpha, beta, recording)[0]


def _fake(logits: Tensor, target: Tensor, alpha: float, beta: float, logits_gradient: bool) -> tuple[Tensor, Tensor]:
    loss = logits.new_empty((), dtype=torch.promote_types(logits.dtype, torch.float32))
    return loss, torch.empty_like(logits) if logits_gradient else logits.new_empty(0)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.gradient_made = inputs[-1]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # the gradient is an output too, and zeros of its size would be made for it
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, grad_loss: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():  # create_graph=True
        raise NotImplementedError(
            "heatmap_focal_loss of the native backend is differentiable once; "
            'for second derivatives run it within mdnkernels.use_backend("eager")'
        )
    if grad_loss is None:
        return None, None, None, None, None
    if not ctx.gradient_made:
        raise RuntimeError(
            "heatmap_focal_loss was traced when its inputs required no gradient, so this graph makes none: "
            "trace or export it with inputs that require gradients"
        )
    (gradient,) = ctx.saved_tensors
    # Looking costs nothing on the CPU, and saves touching all of the gradient's memory once more.
    if type(grad_loss) is not Tensor or grad_loss.device.type != "cpu" or grad_loss.item() != 1:
        gradient = (gradient * grad_loss).to(gradient.dtype)
    return gradient, None, None, None, None


if library.problem is None:
    torch.library.register_fake("mdnkernels::heatmap_focal_loss", _fake)
    torch.library.register_autograd("mdnkernels::heatmap_focal_loss", _backward, setup_context=_setup_context)
