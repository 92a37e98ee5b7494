"""The facts about the machine: `python -m benchmarks.gpu_check.machine FILE` writes them as JSON."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = ("triton", "torchvision", "numpy", "pytest")
QUERY = (
    "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem,clocks.sm,clocks.mem,persistence_mode"
)


def output_of(*command: str) -> str:
    """Run a command and return what it prints, or the reason why it does not run."""
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stdout if done.returncode == 0 else done.stdout + done.stderr).strip()


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def processor() -> str:
    """Return the system's name for the processor."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def gpu() -> dict[str, Any] | None:
    """Return the facts about the first GPU that torch can use, or None where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "second_level_cache_mib": round(getattr(properties, "L2_cache_size", 0) / 2**20, 1),
    }


def describe() -> dict[str, Any]:
    import torch

    return {
        "gpu": gpu(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "packages": {name: installed(name) for name in PACKAGES},
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "commit": output_of("git", "rev-parse", "HEAD"),
        "changed_files": output_of("git", "status", "--short", "--untracked-files=no"),
        "nvcc": output_of("nvcc", "--version").splitlines()[-1:],
        "driver": output_of("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv"),
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(describe(), indent=2))
