"""The library of CUDA kernels as it is built: what it registers, and what its kernels take of a GPU.

None of this needs a GPU; a machine without nvcc has no such library, and skips what looks into it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

import mdnkernels
from mdnkernels import backends
from mdnkernels.__main__ import report
from mdnkernels.native import library

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
OPS = sorted(name for source in SOURCES for name in re.findall(r'm\.impl\("(\w+)"', source.read_text()))

built = pytest.mark.skipif(not library.CUDA_PATH.exists(), reason="the CUDA library was not built: no nvcc")


@built
@pytest.mark.skipif(
    torch.version.cuda is None, reason="this torch has no CUDA, whose runtime the library is linked with"
)
def test_the_library_loads_without_a_gpu_and_registers_its_ops():
    code = f"""
import ctypes, os, torch, mdnkernels
torch.ops.load_library({str(library.CUDA_PATH)!r})
print(*(name for name in {OPS!r} if torch._C._dispatch_has_kernel_for_dispatch_key("mdnkernels::" + name, "CUDA")))
# What the launchers look up of torch when they are first called.
print(hasattr(ctypes.CDLL("libtorch_cuda.so", mode=os.RTLD_NOLOAD), "aoti_torch_get_current_cuda_stream"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    registered, stream = done.stdout.strip().splitlines()
    assert registered.split() == OPS
    assert stream == "True"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_reason_is_given():
    reason = backends.missing("mixture_nll", "native", "cuda")
    assert reason is not None
    assert reason == library.cuda_problem
    assert f"native CUDA library: {reason}" in report()
    assert backends.chosen_by_default("mixture_nll", "cuda") != "native"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("library.problem = 'no compiler'", "no compiler"),
        ("library.CUDA_PATH = pathlib.Path('nowhere')", "was not built"),
        ("torch.version.cuda = None", "built without CUDA"),
        ("torch.cuda.device_count = lambda: 0", "sees no CUDA device"),
        ("torch.cuda.device_count = lambda: 1; library.CUDA_PATH = pathlib.Path(__file__)", "did not load"),
    ],
)
def test_each_thing_that_keeps_the_library_from_loading_is_named(change, reason, tmp_path):
    script = tmp_path / "ask.py"
    script.write_text(f"""
import pathlib, sys, torch
sys.path.insert(0, {str(ROOT)!r})
from mdnkernels.native import library
library.CUDA_PATH, torch.version.cuda = pathlib.Path(__file__), "13.0"
torch.cuda.device_count = lambda: 1
{change}
print(library._load_cuda())
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert reason in done.stdout


@pytest.fixture(scope="module")
def ptxas_reports():
    """What `ptxas -v` says of each source's kernels on sm_80 and sm_90, compiled again where the sources changed."""
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        pytest.skip("no nvcc here")
    folder = ROOT / "build" / "ptxas"
    folder.mkdir(parents=True, exist_ok=True)
    flags = f"-std=c++17 -O3 -DTORCH_TARGET_VERSION=0x020a000000000000 -isystem {Path(torch.__file__).parent}/include"
    lines = [
        "rule report",
        f"  command = {nvcc} {flags} -arch=$architecture -Xptxas=-v -MMD -MF $out.d -MT $out --cubin $in "
        "-o $out.cubin 2> $out.part && mv $out.part $out || (cat $out.part; exit 1)",
        "  depfile = $out.d",
        "  deps = gcc",
    ]
    reports = {}
    for source in SOURCES:
        for architecture in ("sm_80", "sm_90"):
            reports[source.stem, architecture] = folder / f"{source.stem}.{architecture}.txt"
            lines += [f"build {source.stem}.{architecture}.txt: report {source}", f"  architecture = {architecture}"]
    (folder / "build.ninja").write_text("\n".join([*lines, ""]))
    ninja = shutil.which("ninja") or str(Path(sysconfig.get_path("scripts")) / "ninja")
    built = subprocess.run([ninja, "-C", str(folder)], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout
    return {name: path.read_text() for name, path in reports.items()}


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("source", [source.stem for source in SOURCES])
def test_no_kernel_spills_registers_or_uses_local_memory(source, architecture, ptxas_reports):
    text = ptxas_reports[source, architecture]
    kernels = re.findall(r"Compiling entry function '(\w+)'", text)
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", text)
    assert kernels or source == "launch"
    assert len(frames) >= len(kernels)
    assert [name for name, frame in zip(kernels, frames, strict=False) if frame != ("0", "0", "0")] == []


def test_every_op_names_the_public_function_it_serves():
    assert {name.removesuffix("_backward") for name in OPS} <= {*dir(mdnkernels), "scatter_points"}
