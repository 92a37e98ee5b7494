"""Every op in Triton, with the gradients of `mdnkernels.autograd`: for GPUs, and for CPUs under Triton's interpreter.

The functions trust their inputs, as those of `mdnkernels.eager` do, and can be called where `problem` is None. Triton
and the functions are imported when `mdnkernels.backends` loads them, which takes longer than all else of the package.
"""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from typing import Any

import torch

# As Triton reads it.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


def _problem() -> str | None:
    if find_spec("triton") is None:
        return "triton is not installed"
    if torch.version.cuda is None and torch.version.hip is None and not INTERPRETED:
        return "torch is built for the CPU alone, where Triton needs its interpreter (TRITON_INTERPRET=1)"
    return None


# Why the Triton ops are not there, or None where they are, as far as is known before Triton is imported.
problem: str | None = _problem()


def absent(*arguments: Any) -> Any:
    """Stand for every op in Triton where `problem` is not None."""
    raise RuntimeError(problem)


def imports() -> bool:
    """Tell whether Triton is there, and import it. Where it does not import, `problem` says so from then on."""
    global problem
    if problem is None:
        try:
            importlib.import_module("triton")
        except (ImportError, OSError, RuntimeError) as error:
            problem = f"triton does not import: {error}"
    return problem is None


def missing(device_type: str) -> str | None:
    """Return why the ops cannot run on a device of this type, or None where they can."""
    if problem is not None:
        return problem
    if device_type == "cpu":
        return None if INTERPRETED else "Triton runs on the CPU only under its interpreter (TRITON_INTERPRET=1)"
    if device_type != "cuda":
        return f"the Triton kernels are for GPUs, not for {device_type}"
    return None if torch.cuda.is_available() else "no GPU is present"
