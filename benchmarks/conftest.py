"""What the benchmarks share: the machine's state in the report, and a compiler that starts anew for each benchmark."""

from __future__ import annotations

import pytest
import torch

import mdnkernels


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    machine_info["torch"] = torch.__version__
    machine_info["threads"] = torch.get_num_threads()
    machine_info["simd"] = mdnkernels.native.simd_level() if mdnkernels.native.problem is None else "none"


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()
