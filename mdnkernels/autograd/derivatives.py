"""What the backward passes of several ops share."""

from __future__ import annotations

import torch
from torch import Tensor


def refuse_second_derivative(op: str, backend: str) -> None:
    if torch.is_grad_enabled():  # create_graph=True
        raise NotImplementedError(
            f"{op} of the {backend} backend is differentiable once; "
            'for second derivatives run it within mdnkernels.use_backend("eager")'
        )


def scaled(gradient: Tensor, grad_loss: Tensor) -> Tensor:
    """`gradient`, of the loss, times what the loss itself is multiplied by further on."""
    if grad_loss.ndim == 0 and type(grad_loss) is Tensor and grad_loss.device.type == "cpu" and grad_loss.item() == 1:
        return gradient  # looking costs nothing on the CPU, and saves touching all of its memory once more
    factor = grad_loss if grad_loss.ndim == 0 else grad_loss.unsqueeze(1)
    return gradient * factor
