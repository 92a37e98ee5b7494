"""Triton's interpreter must be chosen before triton is imported: what runs under it has a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def run_interpreted(*arguments: str) -> None:
    """Run each test that pytest finds by `arguments`, by its own name in the output should one fail or be skipped."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert " skipped" not in done.stdout, done.stdout[-1_000:]


@pytest.mark.long
@pytest.mark.parametrize("cases", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_ops_under_tritons_interpreter(cases):
    run_interpreted(str(TESTS / "triton" / "interpreted"), "-m", cases)


FEW = "odd and float32 and contiguous"


@pytest.mark.long
@pytest.mark.parametrize("cases", [FEW, pytest.param(f"not ({FEW})", marks=pytest.mark.slow)])
def test_the_op_matrix_under_tritons_interpreter(cases):
    run_interpreted(str(TESTS / "ops" / "test_matrix.py"), "-k", f"-triton] and {cases}")
