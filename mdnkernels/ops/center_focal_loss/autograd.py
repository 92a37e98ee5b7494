"""center_focal_loss of a namespace: its gradient comes along with the loss."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from mdnkernels.ops.heatmap_focal_loss.autograd import focal_backward, focal_context, focal_outputs


def center_focal_loss_outputs(
    logits: Tensor,
    center: Tensor,
    radius: Tensor,
    label: Tensor,
    ignore: Tensor | None,
    alpha: float,
    beta: float,
    logits_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Return empty outputs of the op, as `mixture_nll_outputs` does."""
    return focal_outputs(logits, logits_gradient)


def register(namespace: str, backend: str) -> None:
    """Register the op's shapes and gradient."""
    torch.library.register_fake(f"{namespace}::center_focal_loss", center_focal_loss_outputs)
    backward = partial(focal_backward, "center_focal_loss", backend)
    torch.library.register_autograd(f"{namespace}::center_focal_loss", backward, setup_context=focal_context)


def center_focal_loss(
    namespace: str,
    logits: Tensor,
    center: Tensor,
    radius: Tensor,
    label: Tensor,
    ignore: Tensor | None,
    alpha: float,
    beta: float,
) -> Tensor:
    """See `mdnkernels.center_focal_loss`. Logits that are neither contiguous nor channels_last are copied first."""
    if not logits.is_contiguous() and not logits.is_contiguous(memory_format=torch.channels_last):
        logits = logits.contiguous()
    recording = torch.is_grad_enabled() and logits.requires_grad
    op = getattr(torch.ops, namespace).center_focal_loss
    loss: Tensor = op(logits, center, radius, label, ignore, alpha, beta, recording)[0]
    return loss
