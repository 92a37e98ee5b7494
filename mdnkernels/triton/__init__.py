"""Every op in Triton, with the gradients of `mdnkernels.autograd`: for GPUs, and for CPUs under Triton's interpreter.

The functions trust their inputs, as those of `mdnkernels.eager` do, and can be called where `problem` is None.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch


def _problem() -> str | None:
    if find_spec("triton") is None:
        return "triton is not installed"
    interpreted = os.environ.get("TRITON_INTERPRET", "0") == "1"
    if torch.version.cuda is None and torch.version.hip is None and not interpreted:
        return "torch is built for the CPU alone, where Triton needs its interpreter (TRITON_INTERPRET=1)"
    try:
        import triton  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return f"triton does not import: {error}"
    return None


# Why the Triton ops are not there, or None where they are.
problem: str | None = _problem()

if TYPE_CHECKING or problem is None:
    from mdnkernels.triton.focal import heatmap_focal_loss
    from mdnkernels.triton.launch import INTERPRETED
    from mdnkernels.triton.mixture import mixture_nll
    from mdnkernels.triton.mode import mixture_mode
    from mdnkernels.triton.patches import gather_patches
    from mdnkernels.triton.peaks import topk_peaks
    from mdnkernels.triton.splat import splat_gaussians
else:
    INTERPRETED = False

    def _absent(*arguments: Any) -> Any:
        raise RuntimeError(problem)

    gather_patches = heatmap_focal_loss = mixture_mode = mixture_nll = splat_gaussians = topk_peaks = _absent


def missing(device_type: str) -> str | None:
    """Why the ops cannot run on a device of this type, or None where they can."""
    if problem is not None:
        return problem
    if device_type == "cpu":
        return None if INTERPRETED else "Triton runs on the CPU only under its interpreter (TRITON_INTERPRET=1)"
    if device_type != "cuda":
        return f"the Triton kernels are for GPUs, not for {device_type}"
    return None if torch.cuda.is_available() else "no GPU is present"


__all__ = [
    "INTERPRETED",
    "gather_patches",
    "heatmap_focal_loss",
    "missing",
    "mixture_mode",
    "mixture_nll",
    "problem",
    "splat_gaussians",
    "topk_peaks",
]
