"""mixture_mode of the native library."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mdnkernels import autograd
from mdnkernels.native import library


def mixture_mode(
    logits: Tensor,
    loc: Tensor,
    scale: Tensor | None,
    index: Tensor | None,
    select: str,
    components: Sequence[int] | None,
    scale_activation: str,
    min_scale: float,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """See `mdnkernels.mixture_mode`. Here every tensor is (B, channels, P); gives loc, scale, component and weight."""
    mode_loc, mode_scale, component, weight = torch.ops.mdnkernels.mixture_mode(
        logits, loc, scale, index, select, components, scale_activation, min_scale
    )
    return mode_loc, None if scale is None else mode_scale, component, weight


if library.problem is None:
    autograd.register_mixture_mode("mdnkernels", "native")
