"""The CUDA kernels on the CPU: built by the host compiler, run on fibers, watched.

    with cuda_on_cpu.running(seed=3) as report:
        loss = mdnkernels.mixture_nll(...)
    report.launches[0].read.sectors

runs the public functions as they will run on a GPU: every csrc/ops/*/cuda.cu, host code and kernels, in place of the
CPU's. A mistake of a kernel raises KernelError, which names the kernel, the block and the thread.

Nothing is to be added here for an op. The files are compiled as they are: cuda_runtime.h has what they call of CUDA,
registration.h registers their ops as torch.ops.cuda_on_cpu.OP, and call_memory.cpp makes and knows their tensors.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pybind11
import torch

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
TORCH = Path(torch.__file__).parent
# Kernels are large templates, and compiling them takes longer than running them: -O1. It also leaves the instructions
# that are counted as they stand in the source, but for jump threading, which would copy them.
KERNEL_FLAGS = f"-O1 -fno-thread-jumps -include {FOLDER / 'registration.h'} -x c++"
ENGINE_FLAGS = "-O2"
COMPILE_FLAGS = [
    *("-std=c++17", "-fPIC", "-DMDN_CUDA_ON_CPU", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
    *("-Wall", "-Wextra", "-Wno-attributes", "-Wno-unknown-pragmas", "-Wno-psabi"),
]
NO_COMPILER = "the CUDA kernels run on the CPU where there is a C++ compiler: set CXX or install g++ or clang++"
# The native ops that a public function calls, where they are not the one of its own name.
PARTS = {
    "mixture_nll": ("mixture_nll", "scatter_points"),
    "gather_patches": ("gather_patches", "gather_patches_backward"),
}


class KernelError(RuntimeError):
    """A mistake of a kernel: says which, of which block and thread, and where in the source."""


@dataclass(frozen=True)
class Traffic:
    """One direction of a launch's traffic with global memory.

    An access is one instruction of one warp: the k-th execution of a place in the source by each of its lanes.
    """

    accesses: int
    sectors: int  # of 32 bytes, counted once for each access that touches it
    bytes: int  # that the lanes asked for
    distinct_sectors: int  # counted once


@dataclass(frozen=True)
class Launch:
    kernel: str  # with its template arguments
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int  # dynamic
    read: Traffic
    written: Traffic
    atomic: Traffic


@dataclass
class Report:
    """The launches within one `running`, in their order; complete when it has ended."""

    launches: list[Launch] = field(default_factory=list)

    @property
    def sectors_read(self) -> int:
        return sum(launch.read.sectors for launch in self.launches)

    @property
    def sectors_written(self) -> int:
        return sum(launch.written.sectors for launch in self.launches)


def compiler() -> str | None:
    """Return the host's C++ compiler, or None."""
    return os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


def build() -> Path:
    """Build the module with every csrc/ops/*/cuda.cu, where a source or a flag changed since, and return its path.

    CXXFLAGS and LDFLAGS are those of the environment: `make sanitize` builds it with sanitizers. `make test` builds
    before the tests begin, `python -m tests.cuda_on_cpu` alone.

    Raises:
        RuntimeError: there is no C++ compiler, or it refused the sources; says why.
    """
    host_compiler = compiler()
    if host_compiler is None:
        raise RuntimeError(NO_COMPILER)
    compile_flags = [
        *COMPILE_FLAGS,
        *(f"-I{FOLDER}", f"-I{ROOT / 'csrc'}"),
        # In this order: torch 2.10 brings headers of pybind11 too, which refuse a module of its stable API.
        *("-isystem", pybind11.get_include(), "-isystem", sysconfig.get_path("include")),
        *("-isystem", str(TORCH / "include")),
        *os.environ.get("CXXFLAGS", "").split(),
    ]
    link_flags = [f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-lc10", "-ldl", *os.environ.get("LDFLAGS", "").split()]
    # Flags and the interpreter decide the folder; within it ninja rebuilds what changed.
    identity = " ".join(
        [host_compiler, KERNEL_FLAGS, ENGINE_FLAGS, *compile_flags, *link_flags, sysconfig.get_config_var("EXT_SUFFIX")]
    )
    folder = ROOT / "build" / f"cuda_on_cpu-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    module, stamp, content = folder / "cuda_on_cpu_kernels.so", folder / "built_of", _fingerprint()
    with (folder / "lock").open("w") as lock:  # pytest's workers build once, one after the other
        fcntl.flock(lock, fcntl.LOCK_EX)
        if module.exists() and stamp.exists() and stamp.read_text() == content:
            return module  # whatever the files' times say, which a checkout of another branch and back changes
        (folder / "build.ninja").write_text(_ninja(module.name, host_compiler, compile_flags, link_flags))
        ninja = shutil.which("ninja") or str(Path(sysconfig.get_path("scripts")) / "ninja")
        # A sanitizer that is preloaded for the tests has no business in the compiler.
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        built = subprocess.run([ninja, "-C", str(folder)], env=environment, capture_output=True, text=True)
        if built.returncode != 0:
            raise RuntimeError(f"the CUDA kernels do not compile for the CPU:\n{built.stdout}{built.stderr}")
        stamp.write_text(content)
    return module


def _fingerprint() -> str:
    """Return a hash of all that decides the module: this file, and the C++ and CUDA of csrc and this folder."""
    digest = hashlib.sha256()
    files = [*(ROOT / "csrc").rglob("*.*"), *FOLDER.glob("*.*")]
    sources = (path for path in files if path.suffix in {".cpp", ".h", ".cu", ".cuh"})
    for path in [Path(__file__), *sorted(sources)]:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _ninja(module: str, host_compiler: str, compile_flags: list[str], link_flags: list[str]) -> str:
    """Return the build as ninja reads it."""
    lines = [
        "rule compile",
        f"  command = {host_compiler} $optimization {' '.join(compile_flags)} -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {host_compiler} -shared $in -o $out {' '.join(link_flags)}",
    ]
    objects = []
    for source in sorted([*(ROOT / "csrc").glob("ops/*/cuda.cu"), *FOLDER.glob("*.cu"), *FOLDER.glob("*.cpp")]):
        objects.append(f"{source.parent.name}.{source.stem}.o")
        optimization = KERNEL_FLAGS if source.suffix == ".cu" else ENGINE_FLAGS
        lines += [f"build {objects[-1]}: compile {source}", f"  optimization = {optimization}"]
    lines += [f"build {module}: link {' '.join(objects)}", ""]
    return "\n".join(lines)


@cache
def _built() -> Path | RuntimeError:
    """Return what `build` returns or raises: of sources that do not compile no test asks a second time."""
    try:
        return build()
    except RuntimeError as error:
        return error


@cache
def kernels() -> ModuleType:
    """Load the module that `build` makes.

    Raises:
        RuntimeError: as `build`.
    """
    module = _built()
    if isinstance(module, RuntimeError):
        raise module
    spec = importlib.util.spec_from_file_location("cuda_on_cpu_kernels", module)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@cache
def _library() -> torch.library.Library:
    """Define the ops of cuda_on_cpu by the schemas of mdnkernels'; the library has them for as long as it lives."""
    kernels()
    library = torch.library.Library("cuda_on_cpu", "FRAGMENT")
    for name in _registered():
        packet = getattr(torch.ops.mdnkernels, name, None)
        if packet is not None and not hasattr(torch.ops.cuda_on_cpu, name):
            library.define(str(packet.default._schema).removeprefix("mdnkernels::"))
    return library


@cache
def _registered() -> list[str]:
    """Name the ops that a .cu registers."""
    kernels()
    names = (name.split("::") for name in torch._C._dispatch_get_registrations_for_dispatch_key("CPU"))
    return [name for library, name in names if library == "cuda_on_cpu"]


def op(name: str) -> Callable[..., Any]:
    """Return an op on the CUDA kernels here, of the arguments that its schema names.

    Raises:
        KernelError: when it is called and a kernel makes a mistake.
    """
    _library()
    function = getattr(torch.ops.cuda_on_cpu, name).default

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except RuntimeError as error:
            message = str(error)
            if not message.startswith("KernelError: "):
                raise
        raise KernelError(message.removeprefix("KernelError: "))

    return call


def ops() -> list[str]:
    """Return the ops of the native library that have kernels here."""
    return [name for name in _registered() if hasattr(torch.ops.mdnkernels, name)]


def missing(op: str) -> str | None:
    """Return why the public function `op` does not run on the CUDA kernels here, or None where it does."""
    if compiler() is None:
        return NO_COMPILER
    absent = [part for part in PARTS.get(op, (op,)) if part not in ops()]
    return f"csrc/ops has no CUDA kernels of {', '.join(absent)}" if absent else None


@contextmanager
def running(seed: int = 0, count: bool = True) -> Iterator[Report]:
    """Let CPU tensors go through the CUDA kernels within the block. Ops without kernels here stay as they are.

    Args:
        seed: 0 runs blocks and threads in their natural order, any other one in an order of its own.
        count: count sectors. Without it launches take less time; all checks stay.

    Yields:
        The report, which is complete when the block has ended.
    """
    module = kernels()
    report = Report()
    module.configure(seed=seed, count=count)
    module.take_records()
    library = torch.library.Library("mdnkernels", "IMPL")
    try:
        for name in ops():
            library.impl(name, op(name), "CPU", allow_override=True)
        yield report
    finally:
        library._destroy()
        report.launches.extend(_launch(record) for record in module.take_records())
        module.configure(seed=0, count=True)


def _launch(record: dict[str, Any]) -> Launch:
    traffic = {name: Traffic(**record[name]) for name in ("read", "written", "atomic")}
    return Launch(**{**record, **traffic})
