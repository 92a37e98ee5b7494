"""Loads the native libraries, which hold no Python: they register their ops with torch when they are loaded."""

from __future__ import annotations

import os
from pathlib import Path

import torch

# Another build of the library, one with sanitizers for instance, can be put in its place.
PATH = Path(os.environ.get("MDNKERNELS_LIBRARY") or Path(__file__).parent / "libmdnkernels_cpu.so")
CUDA_PATH = Path(__file__).parent / "libmdnkernels_cuda.so"


def _load() -> str | None:
    if not PATH.exists():
        return "the native library was not built; 'pip install --no-build-isolation .' builds it with a C++17 compiler"
    try:
        torch.ops.load_library(str(PATH))
    except (OSError, RuntimeError) as error:
        return f"the native library did not load: {error}"
    return None


def _load_cuda() -> str | None:
    if problem is not None:
        return problem  # the schemas of its ops are in the CPU's library
    if not CUDA_PATH.exists():
        return "the native CUDA library was not built; 'pip install --no-build-isolation .' builds it with nvcc"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if (
        torch.cuda.device_count() == 0
    ):  # unlike is_available, it asks the driver's management library: forks stay usable
        return "torch sees no CUDA device"
    try:
        torch.ops.load_library(str(CUDA_PATH))
    except (OSError, RuntimeError) as error:
        return (
            f"the native CUDA library did not load beside a torch for CUDA {torch.version.cuda} "
            f"(build it with a toolkit of the same major version): {error}"
        )
    return None


# Why the native ops are not there, or None where they are: on the CPU, and on a GPU.
problem: str | None = _load()
cuda_problem: str | None = _load_cuda()


def simd_level() -> str:
    """The instruction set in use: "avx512", "avx2" or "baseline", or "neon" on Arm. MDNKERNELS_SIMD forces one.

    Raises:
        RuntimeError: the library is not there, or MDNKERNELS_SIMD names a level that this machine lacks.
    """
    if problem is not None:
        raise RuntimeError(problem)
    return torch.ops.mdnkernels.simd_level()


def kept_bytes() -> int:
    """Bytes of freed outputs on the CPU that are kept for the next ones, at most MDNKERNELS_CACHE_MB (default 512)."""
    return torch.ops.mdnkernels.kept_bytes() if problem is None else 0


def empty_cache() -> None:
    """Give the memory kept for the next outputs on the CPU back to the system.

    Freed outputs of a megabyte or more are kept, up to MDNKERNELS_CACHE_MB megabytes (default 512, 0 keeps nothing): a
    training step that allocates its gradients anew would otherwise wait for the system to zero their pages.
    """
    if problem is None:
        torch.ops.mdnkernels.release_kept_blocks()
