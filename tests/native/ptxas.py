"""What `ptxas -v` says of the CUDA kernels on sm_80 and sm_90: `python -m benchmarks.sass --registers` prints it."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
SOURCES = {source.parent.name: source for source in sorted((CSRC / "ops").glob("*/cuda.cu"))}  # by op
ARCHITECTURES = ("sm_80", "sm_90")
FOLDER = ROOT / "build" / "ptxas"  # of reports and cubins, SOURCE.ARCHITECTURE and SOURCE.ARCHITECTURE.cubin


@dataclass(frozen=True)
class Resources:
    """What a kernel takes of a GPU."""

    kernel: str
    registers: int  # of a thread
    stack: int  # bytes of local memory
    spills: int  # bytes stored and loaded


def nvcc() -> str | None:
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


@functools.cache
def reports(architectures: tuple[str, ...] = ARCHITECTURES) -> dict[tuple[str, str], list[Resources]]:
    """Return the kernels of each source on each architecture, compiled again where the sources changed.

    Raises:
        RuntimeError: nvcc refused the sources; says why.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch_headers = Path(torch.__file__).parent / "include"
    flags = f"-std=c++17 -O3 -DTORCH_TARGET_VERSION=0x020a000000000000 -I{CSRC} -isystem {torch_headers}"
    lines = [
        "rule report",
        f"  command = {nvcc()} {flags} -arch=$architecture -Xptxas=-v -MMD -MF $out.d -MT $out --cubin $in "
        "-o $out.cubin 2> $out.part && mv $out.part $out || (cat $out.part; exit 1)",
        "  depfile = $out.d",
        "  deps = gcc",
    ]
    for op, source in SOURCES.items():
        for architecture in architectures:
            lines += [f"build {op}.{architecture}: report {source}", f"  architecture = {architecture}"]
    (FOLDER / "build.ninja").write_text("\n".join([*lines, ""]))
    ninja = shutil.which("ninja") or str(Path(sysconfig.get_path("scripts")) / "ninja")
    built = subprocess.run([ninja, "-C", str(FOLDER)], capture_output=True, text=True)
    if built.returncode != 0:
        raise RuntimeError(f"nvcc refuses the CUDA kernels:\n{built.stdout}")
    return {
        (op, architecture): parse((FOLDER / f"{op}.{architecture}").read_text())
        for op in SOURCES
        for architecture in architectures
    }


def parse(text: str) -> list[Resources]:
    """Return the kernels that a report of ptxas names."""
    kernels = []
    for entry in text.split("Compiling entry function '")[1:]:
        name = entry.split("'")[0]
        stack, stores, loads = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", entry
        ).groups()
        registers = re.search(r"Used (\d+) registers", entry)[1]
        kernels.append(Resources(name, int(registers), int(stack), int(stores) + int(loads)))
    return kernels


def readable(kernel: str) -> str:
    """Return the kernel's name with its template arguments, without its parameters."""
    program = shutil.which("c++filt")
    name = subprocess.run([program, kernel], capture_output=True, text=True).stdout if program else kernel
    return re.sub(r"^void |mdn::|device::|\((?:[^()]|\([^()]*\))*\)\s*$", "", name.strip())


def table() -> str:
    """Return the registers of each kernel, as Markdown."""
    by_kernel: dict[str, dict[str, Resources]] = {}
    for (_, architecture), kernels in reports().items():
        for resources in kernels:
            by_kernel.setdefault(readable(resources.kernel), {})[architecture] = resources
    lines = [f"| kernel | {' | '.join(ARCHITECTURES)} |", "| --- |" + " --- |" * len(ARCHITECTURES)]
    for kernel, of in sorted(by_kernel.items()):
        lines.append(f"| `{kernel}` | {' | '.join(str(of[name].registers) for name in ARCHITECTURES)} |")
    return "\n".join(lines)
