"""mixture_nll of the native library: one call gives the loss and, where they will be wanted, its gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from mdnkernels import autograd
from mdnkernels.native import library


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


if library.problem is None:
    autograd.register_mixture_nll("mdnkernels", "native")
