"""Loads the native libraries, which hold no Python: they register their ops with torch when they are loaded."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import torch

from mdnkernels.native import sources

NAMESPACE = "mdnkernels"  # of its ops, in torch.ops

_HERE = Path(__file__).parent
_CHECKOUT = _HERE.parents[1]
_CSRC = _CHECKOUT / "csrc"  # there where the package is a checkout's, absent where it is an installed copy


def _is_current(library: Path, kind: str) -> bool:
    """Tell whether a library is there and, for a checkout, was built of its sources."""
    return library.exists() and (not _CSRC.exists() or sources.built_of(library) == sources.fingerprint(_CSRC, kind))


def _find(kind: str) -> Path:
    """Return where the library "cpu" or "cuda" is, or should be.

    It is beside this file, or for CUDA in the wheel for torch's CUDA, mdnkernels-cuda13 for instance (wheels/cuda). A
    checkout that has none of its own takes that of an installed copy, which `pip install .` leaves, if that was built
    of the checkout's sources.
    """
    own = _HERE / f"libmdnkernels_{kind}.so"
    installed = [Path(folder) / "mdnkernels" / "native" / own.name for folder in sys.path if _CSRC.exists()]
    if kind == "cuda" and torch.version.cuda is not None:
        installed += [Path(folder) / f"mdnkernels_cuda{_cuda_major()}" / own.name for folder in sys.path]
    there = [library for library in (own, *installed) if library.exists()]
    return next((library for library in there if _is_current(library, kind)), there[0] if there else own)


def _cuda_major() -> str:
    return str(torch.version.cuda).split(".")[0]


# Another build of the library, one with sanitizers for instance, can be put in its place.
_GIVEN = os.environ.get("MDNKERNELS_LIBRARY")
PATH = Path(_GIVEN) if _GIVEN else _find("cpu")
CUDA_PATH = _find("cuda")


def _advice(switch: str, effect: str) -> str:
    """Return what to do where a library is not there or is of no use."""
    if _CSRC.exists():
        return f"'{switch}pip install -e .' in {_CHECKOUT} {effect}"
    return f"'{switch}pip install --force-reinstall --no-deps .' in a checkout {effect}"


def _build() -> str:
    there = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    absent = "a C++17 compiler, g++ or clang++, which is not there (or set CXX)"
    return _advice("", f"builds it, with {f'the C++ compiler {there}' if there else absent}")


def _load() -> str | None:
    if _GIVEN and not PATH.exists():
        return f"MDNKERNELS_LIBRARY names {PATH}, which does not exist"
    if not PATH.exists():
        return f"the native library was not built; {_build()}"
    if not _GIVEN and not _is_current(PATH, "cpu"):
        return f"the native library {PATH} was built of other sources than {_CSRC} has; {_build()}"
    try:
        torch.ops.load_library(str(PATH))
    except (OSError, RuntimeError) as error:
        return f"the native library {PATH} did not load: {error}; {_build()}"
    return None


def _load_cuda() -> str | None:
    if problem is not None:
        return problem  # the schemas of its ops are in the CPU's library
    build = _advice("MDNKERNELS_BUILD_CUDA=1 ", "builds it or says what is missing")
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not CUDA_PATH.exists():
        return f"the native CUDA library is not there: pip install mdnkernels-cuda{_cuda_major()}, or {build}"
    if (
        torch.cuda.device_count() == 0
    ):  # unlike is_available, it asks the driver's management library: forks stay usable
        return "torch sees no CUDA device"
    if not _is_current(CUDA_PATH, "cuda"):
        return f"the native CUDA library {CUDA_PATH} was built of other sources than {_CSRC} has; {build}"
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
    """Return the instruction set in use: "avx512", "avx2" or "baseline", or "neon" on Arm. MDNKERNELS_SIMD forces one.

    Raises:
        RuntimeError: the library is not there, or MDNKERNELS_SIMD names a level that this machine lacks.
    """
    if problem is not None:
        raise RuntimeError(problem)
    return torch.ops.mdnkernels.simd_level()


def kept_bytes() -> int:
    """Return the bytes of freed outputs that are kept on the CPU for the next ones.

    MDNKERNELS_CACHE_MB megabytes are the most (default 512).
    """
    return torch.ops.mdnkernels.kept_bytes() if problem is None else 0


def empty_cache() -> None:
    """Give the memory kept for the next outputs on the CPU back to the system.

    Freed outputs of a megabyte or more are kept, up to MDNKERNELS_CACHE_MB megabytes (default 512, 0 keeps nothing): a
    training step that allocates its gradients anew would otherwise wait for the system to zero their pages.
    """
    if problem is None:
        torch.ops.mdnkernels.release_kept_blocks()
