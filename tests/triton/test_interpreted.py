from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_the_ops_under_tritons_interpreter():
    """Each test of `interpreted/` by its own name in the output, should one fail."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).parent / "interpreted")],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert " skipped" not in done.stdout, done.stdout[-1_000:]
