"""CUDA's tools for compiled code, which triton brings along, and what cuobjdump says that kernels take of a GPU."""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel takes of a GPU, for each thread."""

    source: str  # the name of its file, without the suffix; "" in a cubin, which does not say
    architecture: str  # likewise
    kernel: str
    registers: int
    local_bytes: int  # spilled registers and what else is in local memory


@functools.cache
def tool(name: str) -> str | None:
    """Return the path of a tool: the one on PATH, or triton's; None where there is neither."""
    triton = importlib.util.find_spec("triton")
    folders = [Path(place) / "backends/nvidia/bin" for place in triton.submodule_search_locations] if triton else []
    return shutil.which(name) or next((str(folder / name) for folder in folders if (folder / name).exists()), None)


def usage(code: Path) -> list[Usage]:
    """Return what each kernel in a library or cubin takes, for each architecture that it was compiled for."""
    done = subprocess.run([str(tool("cuobjdump")), "-res-usage", code], capture_output=True, text=True, check=True)
    return parse(done.stdout)


def parse(text: str) -> list[Usage]:
    """Return the kernels that an output of `cuobjdump -res-usage` names."""
    kernels = []
    for part in text.split("Fatbin elf code:"):
        architecture, source = (re.search(rf"{key} = (\S+)", part) for key in ("arch", "identifier"))
        for kernel, values in re.findall(r"Function (\S+):\s+(REG:[^\n]*)", part):
            of = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", values)}
            kernels.append(
                Usage(
                    Path(source[1]).parent.name if source else "",
                    architecture[1] if architecture else "",
                    kernel,
                    of["REG"],
                    of["STACK"] + of["LOCAL"],
                )
            )
    return kernels
