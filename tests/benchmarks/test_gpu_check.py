from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from benchmarks import gpu_check


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_fails():
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu_check"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "needs a GPU" in done.stderr


def test_the_table_has_a_row_for_each_op_and_a_time_for_each_backend_that_is_there():
    rows = gpu_check.timings("cpu", side=8, batch=1, rounds=1, compiled=False)
    assert len(rows) == 2 + len(gpu_check.calls("cpu", 8, 1))
    for row in rows[2:]:
        name, native, triton, eager, compiled = (cell.strip() for cell in row.strip("|").split("|"))
        assert (triton, compiled) == ("-", "-"), name  # without Triton's interpreter, and left out
        assert min(float(native), float(eager)) > 0


@pytest.mark.parametrize(("code", "state"), [(0, "passed"), (1, "FAILED")])
def test_a_check_reports_the_last_line_and_the_exit_status(code, state, capsys):
    row, passed = gpu_check.tested(
        "matrix", [sys.executable, "-c", f"print('=== 3 tests ==='); raise SystemExit({code})"]
    )
    assert passed == (code == 0)
    assert state in row
    assert "3 tests" in row
    assert "=== 3 tests ===" in capsys.readouterr().out
