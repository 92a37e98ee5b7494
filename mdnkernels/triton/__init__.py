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
    from mdnkernels.triton.launch import INTERPRETED
else:
    INTERPRETED = False


def absent(*arguments: Any) -> Any:
    """Stand for every op in Triton where `problem` is not None."""
    raise RuntimeError(problem)


def missing(device_type: str) -> str | None:
    """Return why the ops cannot run on a device of this type, or None where they can."""
    if problem is not None:
        return problem
    if device_type == "cpu":
        return None if INTERPRETED else "Triton runs on the CPU only under its interpreter (TRITON_INTERPRET=1)"
    if device_type != "cuda":
        return f"the Triton kernels are for GPUs, not for {device_type}"
    return None if torch.cuda.is_available() else "no GPU is present"
