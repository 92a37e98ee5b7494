"""The library of CUDA kernels as it is built: what it registers, and what its kernels take of a GPU.

None of this needs a GPU; a machine without nvcc has no such library, and skips what looks into it.
"""

from __future__ import annotations

import itertools
import re

import pytest
import torch

import mdnkernels
from mdnkernels import backends
from mdnkernels.__main__ import report
from mdnkernels.native import library
from tests.native import cuobjdump, ptxas
from tests.processes import python

OPS = sorted(name for source in ptxas.SOURCES.values() for name in re.findall(r'm\.impl\("(\w+)"', source.read_text()))

built = pytest.mark.skipif(not library.CUDA_PATH.exists(), reason="the CUDA library was not built")


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
    done = python(code)
    assert done.returncode == 0, done.stderr
    registered, stream = done.stdout.splitlines()
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
        ("library.CUDA_PATH = pathlib.Path('nowhere')", "is not there: pip install mdnkernels-cuda13"),
        ("torch.version.cuda = None", "built without CUDA"),
        ("torch.cuda.device_count = lambda: 0", "sees no CUDA device"),
        ("library.CUDA_PATH = pathlib.Path(__file__)", "was built of other sources"),
        ("library.CUDA_PATH = pathlib.Path(__file__); library._is_current = lambda *_: True", "did not load"),
    ],
)
def test_each_thing_that_keeps_the_library_from_loading_is_named(change, reason):
    done = python(f"""
import pathlib, torch
from mdnkernels.native import library
__file__ = library.__file__
library.CUDA_PATH, torch.version.cuda = pathlib.Path(__file__), "13.0"
torch.cuda.device_count = lambda: 1
{change}
print(library._load_cuda())
""")
    assert done.returncode == 0, done.stderr
    assert reason in done.stdout


@built
@pytest.mark.skipif(cuobjdump.tool("cuobjdump") is None, reason="no cuobjdump, which triton and CUDA bring")
def test_no_kernel_of_the_library_uses_local_memory():
    """Spilled registers are in local memory."""
    kernels = cuobjdump.usage(library.CUDA_PATH)
    found = {(kernel.source, kernel.architecture) for kernel in kernels}
    architectures = {architecture for _, architecture in found}
    assert architectures
    sources = set(ptxas.SOURCES)
    assert found == set(itertools.product(sources, architectures))
    assert [kernel for kernel in kernels if kernel.local_bytes] == []


def test_local_memory_would_be_seen():
    text = """
Fatbin ptx code:
================
arch = sm_80

Fatbin elf code:
================
arch = sm_80
identifier = /some/where/ops/one/cuda.cu

Resource usage:
 Common:
  GLOBAL:28 CONSTANT[4]:224
 Function a:
  REG:56 STACK:0 SHARED:9260 LOCAL:0 CONSTANT[0]:496 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function b:
  REG:64 STACK:48 SHARED:0 LOCAL:8 CONSTANT[0]:496 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin elf code:
================
arch = sm_90
identifier = /some/where/ops/two/cuda.cu

Resource usage:
 Function a:
  REG:40 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:368 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
    assert cuobjdump.parse(text) == [
        cuobjdump.Usage("one", "sm_80", "a", 56, 0),
        cuobjdump.Usage("one", "sm_80", "b", 64, 56),
        cuobjdump.Usage("two", "sm_90", "a", 40, 0),
    ]


@pytest.mark.slow
@pytest.mark.skipif(ptxas.nvcc() is None, reason="no nvcc here")
@pytest.mark.parametrize("architecture", [f"sm_{number}" for number in (80, 86, 89, 90, 100, 120)])
@pytest.mark.parametrize("source", [*ptxas.SOURCES])
def test_no_kernel_spills_registers_or_uses_local_memory(source, architecture):
    kernels = ptxas.reports((architecture,))[source, architecture]
    assert kernels or source == "launch"
    assert [kernel for kernel in kernels if kernel.stack or kernel.spills] == []


def test_a_spill_would_be_seen():
    text = """
ptxas info    : Compiling entry function 'a' for 'sm_90'
ptxas info    : Function properties for a
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers
ptxas info    : Compiling entry function 'b' for 'sm_90'
ptxas info    : Function properties for b
    56 bytes stack frame, 60 bytes spill stores, 176 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 56 bytes cumulative stack size
"""
    assert ptxas.parse(text) == [ptxas.Resources("a", 40, 0, 0), ptxas.Resources("b", 64, 56, 236)]


def test_every_op_names_the_public_function_it_serves():
    assert {name.removesuffix("_backward") for name in OPS} <= {*dir(mdnkernels), "scatter_points"}
