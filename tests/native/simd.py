"""The instruction sets of this machine, and a script run with the native kernels of one of them."""

from __future__ import annotations

from mdnkernels import native
from tests.processes import python

_X86 = ("baseline", "avx2", "avx512")  # each has those before it


def _levels() -> tuple[str, ...]:
    best = native.simd_level() if native.problem is None else "baseline"
    return _X86[: _X86.index(best) + 1] if best in _X86 else (best,)


# Those that this machine has: no test is parametrised over others.
LEVELS = _levels()


def run_at_level(script: str, level: str) -> str:
    """Return what `script` prints in a process of its own under MDNKERNELS_SIMD=level."""
    done = python(script, MDNKERNELS_SIMD=level)
    assert done.returncode == 0, done.stderr
    return done.stdout
