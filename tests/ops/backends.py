"""The backends that op tests run on, one list and one way in: those of `mdnkernels` on the CPU, the CUDA kernels on the
CPU, and where there is a GPU those of `mdnkernels` on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import mdnkernels
from mdnkernels import backends, triton
from tests import cuda_on_cpu

ON_A_GPU = {"native_on_gpu": "native", "triton_on_gpu": "triton", "eager_on_gpu": "eager"}
# What no installation could bring to this process is no case of it, and `absent` says why. Elsewhere what is missing
# is skipped.
BACKENDS = (
    *("eager", "native", "cuda_on_cpu"),
    *(("triton",) if triton.missing("cpu") is None else ()),
    *(ON_A_GPU if torch.cuda.is_available() else ()),
)


def absent() -> dict[str, str]:
    """Return why the backends that are not in BACKENDS cannot be there."""
    reasons = {"triton": str(triton.missing("cpu")), **dict.fromkeys(ON_A_GPU, "no GPU is present")}
    return {backend: reason for backend, reason in reasons.items() if backend not in BACKENDS}


def device_of(backend: str) -> str:
    """Return where the tensors of a test on `backend` must be."""
    return "cuda" if backend in ON_A_GPU else "cpu"


def missing(op: str, backend: str) -> str | None:
    """Return why the public function `op` cannot run on `backend` here, or None where it can."""
    if backend != "cuda_on_cpu":
        return backends.missing(op, ON_A_GPU.get(backend, backend), device_of(backend))
    return backends.missing(op, "native", "cpu") or cuda_on_cpu.missing(op)


@contextmanager
def on(backend: str, seed: int = 0) -> Iterator[None]:
    """Run the public functions, and backward passes of what they gave, on `backend` within the block.

    Args:
        backend: one of BACKENDS.
        seed: the order of the CUDA kernels' threads and blocks; nothing to the other backends.
    """
    if backend == "cuda_on_cpu":
        with cuda_on_cpu.running(seed, count=False), mdnkernels.use_backend("native"):
            yield
    else:
        with mdnkernels.use_backend(ON_A_GPU.get(backend, backend)):
            yield


def skip_where_missing(op: str, backend: str) -> None:
    """Skip the running test where `op` does not run on `backend`, with the reason."""
    reason = missing(op, backend)
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")
