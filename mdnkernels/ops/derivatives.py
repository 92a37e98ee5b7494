"""What the backward passes of several ops share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def refuse_second_derivative(op: str, backend: str) -> None:
    """Raise NotImplementedError within a backward pass that is recorded itself (create_graph=True)."""
    if torch.is_grad_enabled():
        raise NotImplementedError(
            f"{op} of the {backend} backend is differentiable once; "
            'for second derivatives run it within mdnkernels.use_backend("eager")'
        )


def scaling(grad_loss: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what multiplies gradients of a loss by `grad_loss`, what the loss itself is multiplied by further on.

    Its results are the caller's to write to. Where the factor is 1 and the graph is not kept for another backward pass,
    they are the saved gradients themselves: a training step does not touch their memory once more.
    """
    if grad_loss.ndim == 0 and _is_one(grad_loss):
        # AOTAutograd asks the same before it lets a compiled backward pass reuse what was saved.
        if torch._C._autograd._get_current_graph_task_keep_graph():
            return torch.clone
        return lambda gradient: gradient
    factor = grad_loss if grad_loss.ndim == 0 else grad_loss.unsqueeze(1)
    return lambda gradient: gradient * factor


def scaled(gradient: Tensor, grad_loss: Tensor) -> Tensor:
    """Return one gradient multiplied as `scaling` says."""
    return scaling(grad_loss)(gradient)


def _is_one(value: Tensor) -> bool:
    """Tell whether the scalar `value` is 1, where looking costs nothing; False elsewhere: on a device that would have
    to be waited for, in a traced graph, and where it stands for a batch of values (is_grads_batched, vmap)."""
    if type(value) is not Tensor or value.device.type != "cpu":
        return False
    functorch = torch._C._functorch
    batched = functorch.is_legacy_batchedtensor(value) or functorch.is_functorch_wrapped_tensor(value)
    return not batched and value.item() == 1
