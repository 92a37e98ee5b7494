"""`python -m mdnkernels`: versions, what was built, and the state of each backend with its reason."""

from __future__ import annotations

import platform
import sys

import torch

import mdnkernels
from mdnkernels import backends, command_line, native
from mdnkernels.native import library


def report() -> str:
    """Return the state of this installation as text."""
    cuda, device = torch.version.cuda or "none", "present" if torch.cuda.is_available() else "absent"
    lines = [
        f"mdnkernels {mdnkernels.__version__}, Python {platform.python_version()}, {platform.machine()}",
        f"torch {torch.__version__}, built for CUDA {cuda}, device {device}",
        f"native library: {native.problem or f'loaded, SIMD level {native.simd_level()}, {library.PATH}'}",
        f"native CUDA library: {native.cuda_problem or 'loaded'}",
        f"asked for: {backends.chosen() or 'nothing (the first that is there runs)'}",
        "",
        f"{'op':20}" + "".join(f"{device + ' runs':14}" for device in ("cpu", "cuda")) + "backends",
    ]
    for op, implementations in backends.TABLE.items():
        default = "".join(f"{backends.chosen_by_default(op, device):14}" for device in ("cpu", "cuda"))
        lines.append(f"{op:20}{default}{', '.join(implementations)}")
    lines.append("")
    for backend in backends.BACKENDS:
        for device in ("cpu", "cuda"):
            reasons = {op: backends.missing(op, backend, device) for op in backends.TABLE}
            there = [op for op, reason in reasons.items() if reason is None]
            state = "all ops" if len(there) == len(reasons) else ", ".join(there) or "none"
            why = next((reason for reason in reasons.values() if reason is not None), None)
            lines.append(f"{backend:8}{device:6}{state}" + (f" ({why})" if why else ""))
    return "\n".join(lines)


def main() -> int:
    """Print the report and return the exit status."""
    print(report())
    return 0


if __name__ == "__main__":
    sys.exit(command_line.exit_status(main))
