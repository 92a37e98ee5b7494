"""Running a script with the native kernels of one instruction set."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Levels that the machine has refused: a process need not start to be refused again.
_lacking: set[str] = set()


def run_at_level(script: str, level: str) -> str:
    """What `script` prints in a process of its own under MDNKERNELS_SIMD=level; skips where the machine lacks it."""
    if level in _lacking:
        pytest.skip(f"this machine has no {level}")
    environment = {**os.environ, "MDNKERNELS_SIMD": level}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    if "must be one of the levels that this machine has" in done.stderr:
        _lacking.add(level)
        pytest.skip(f"this machine has no {level}")
    assert done.returncode == 0, done.stderr
    return done.stdout
