"""Builds the native libraries, plain shared objects that register their ops with torch when they are loaded.

They are written against torch's stable C++ API and include no Python.h, so one build serves every torch >= 2.10 and
every Python. The CPU's kernel files (*_kernel.cpp) are compiled once for each instruction set; which one runs is
decided at run time. The CUDA library is built where nvcc is found, and needs neither a GPU nor a torch with CUDA:

    MDNKERNELS_BUILD_CUDA  0 leaves it out, 1 makes its absence an error
    CUDA_HOME              the toolkit; by default /usr/local/cuda, or the one that the nvcc on PATH belongs to
    TORCH_CUDA_ARCH_LIST   the GPUs it is built for, "9.0" or "8.0;9.0+PTX" for instance; by default all of
                           ARCHITECTURES that nvcc knows, and PTX for those to come

Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
# Optional: there is no library without its compiler.
CPU_LIBRARY = Extension("mdnkernels.native.libmdnkernels_cpu", sources=[], optional=True)
CUDA_LIBRARY = Extension("mdnkernels.native.libmdnkernels_cuda", sources=[], optional=True)

# Flags of each instruction set's copy of the kernels.
X86_LEVELS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}
LEVELS = X86_LEVELS if platform.machine() in ("x86_64", "AMD64") else {"baseline": []}

COMPILE_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
# Wide vectors pass only between functions that are inlined, so warnings about their calling convention are moot.
WARNINGS = ["-Wall", "-Wextra", "-Wno-psabi", "-Wno-ignored-attributes", "-Wno-unknown-pragmas"]
DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]  # torch 2.10's stable API

# A100; RTX 30, A10; RTX 40, L4; H100; B200; RTX 50.
ARCHITECTURES = ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]
# Arithmetic stays that of IEEE: no fast-math. Spills and local memory are worth a warning.
NVCC_FLAGS = ["-std=c++17", "-O3", "-lineinfo", "-Xptxas=-warn-spills,-warn-lmem-usage"]
NVCC_HOST_FLAGS = ["-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas"]


def torch_folder() -> Path:
    """Where torch is installed. Under pip's build isolation it cannot be imported, but its headers are still there."""
    folders = [
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        *site.getsitepackages(),
        site.getusersitepackages(),
    ]
    for folder in [*folders, *sys.path]:
        torch = Path(folder) / "torch"
        if (torch / "include" / "torch" / "csrc" / "stable" / "ops.h").exists():
            return torch
    raise SystemExit(
        "mdnkernels builds against an installed torch >= 2.10, and found none: run 'pip install torch' first"
    )


def cpp_compiler() -> str | None:
    return os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


def library_folder(toolkit: Path) -> Path | None:
    """Where a CUDA toolkit has what the library is linked with."""
    folders = [toolkit / "lib64", toolkit / "lib", *sorted(toolkit.glob("targets/*/lib"))]
    return next((folder for folder in folders if (folder / "libcudart.so").exists()), None)


def cuda_toolkit() -> Path | None:
    """The folder of a CUDA toolkit that is complete enough to build with, or None."""
    on_path = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), "/usr/local/cuda", on_path and Path(on_path).resolve().parents[1]]
    for candidate in candidates:
        if candidate and (Path(candidate) / "bin" / "nvcc").exists() and library_folder(Path(candidate)):
            return Path(candidate)
    return None


def cuda_wanted() -> bool | None:
    """What MDNKERNELS_BUILD_CUDA says; None where it leaves the choice to what is there."""
    value = os.environ.get("MDNKERNELS_BUILD_CUDA", "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"MDNKERNELS_BUILD_CUDA must be 0 or 1, got {value!r}")
    return None if value == "" else value == "1"


def code_flags(nvcc: Path) -> list[str]:
    """nvcc's options for the GPUs that TORCH_CUDA_ARCH_LIST asks for, each as in torch's own builds."""
    wanted = re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip())
    if wanted == [""]:
        known = subprocess.run([nvcc, "--list-gpu-code"], check=True, capture_output=True, text=True).stdout.split()
        wanted = [name for name in ARCHITECTURES if "sm_" + name.replace(".", "") in known]
        wanted[-1] += "+PTX"
    flags = []
    for name in wanted:
        match = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", name)
        if match is None:
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST must hold names like 9.0 or 9.0+PTX, got {name!r}")
        number = match[1] + match[2]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[3]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


class BuildNative(build_ext):
    """Compiles with ninja: in parallel, and only what changed."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"

    def build_extension(self, ext: Extension) -> None:
        library = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = self.cpu_build(library) if ext is CPU_LIBRARY else self.cuda_build(library)
        if build is None:
            library.unlink(missing_ok=True)  # that of an earlier build
            return
        library.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(self.build_temp).resolve() / library.stem
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_text(build)
        ninja = shutil.which("ninja") or str(Path(sysconfig.get_path("scripts")) / "ninja")
        subprocess.run([ninja, "-C", str(folder)], check=True)

    def cpu_build(self, library: Path) -> str | None:
        """The build of the CPU library as ninja reads it; None, and why on the terminal, where there can be none."""
        compiler = cpp_compiler()
        if compiler is None:
            print(
                "mdnkernels: no C++ compiler found (set CXX or install g++ or clang++): installing without the native "
                "library; the ops run on the eager backend",
                file=sys.stderr,
            )
            return None
        return cpu_ninja(compiler, torch_folder(), library)

    def cuda_build(self, library: Path) -> str | None:
        """The same of the CUDA library."""
        wanted, toolkit, compiler = cuda_wanted(), cuda_toolkit(), cpp_compiler()
        if wanted is False or (wanted is None and (toolkit is None or compiler is None)):
            return None
        if toolkit is None or compiler is None:
            raise SystemExit(
                "MDNKERNELS_BUILD_CUDA=1 asks for the CUDA library, but "
                + ("no C++ compiler was found" if toolkit else "no CUDA toolkit was found: set CUDA_HOME to one that")
                + ("" if toolkit else " holds bin/nvcc and libcudart.so")
            )
        return cuda_ninja(compiler, toolkit, torch_folder(), library)


def cpu_ninja(compiler: str, torch: Path, library: Path) -> str:
    """One rule to compile, one to link."""
    flags = " ".join([*COMPILE_FLAGS, *WARNINGS, *DEFINES, os.environ.get("CXXFLAGS", "")])
    link_flags = os.environ.get("LDFLAGS", "")
    lines = [
        f"compile = {compiler} {flags} -isystem {torch}/include",
        "rule compile",
        "  command = $compile $level -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {compiler} -shared $in -o $out -L{torch}/lib -ltorch_cpu -lc10 {link_flags}",
    ]
    objects = []
    for source in sorted([ROOT / "csrc" / "ops.cpp", *(ROOT / "csrc" / "cpu").glob("*.cpp")]):
        levels = LEVELS if source.stem.endswith("_kernel") else {"baseline": []}
        for level, options in levels.items():
            objects.append(f"{source.stem}.{level}.o")
            lines += [f"build {objects[-1]}: compile {source.resolve()}", f"  level = {' '.join(options)}"]
    lines += [f"build {library}: link {' '.join(objects)}", f"default {library}", ""]
    return "\n".join(lines)


def cuda_ninja(compiler: str, toolkit: Path, torch: Path, library: Path) -> str:
    """The same with nvcc. The library looks up at run time what only a torch with CUDA has: it is not linked to it."""
    nvcc = toolkit / "bin" / "nvcc"
    flags = [*NVCC_FLAGS, *code_flags(nvcc), f"-Xcompiler={','.join(NVCC_HOST_FLAGS)}", *DEFINES]
    lines = [
        "rule compile",
        f"  command = {nvcc} -ccbin {compiler} {' '.join(flags)} -isystem {torch}/include "
        "-MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {compiler} -shared $in -o $out -L{torch}/lib -ltorch_cpu -lc10 -L{library_folder(toolkit)} "
        "-lcudart -ldl",
    ]
    objects = []
    for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
        objects.append(f"{source.stem}.o")
        lines.append(f"build {objects[-1]}: compile {source.resolve()}")
    lines += [f"build {library}: link {' '.join(objects)}", f"default {library}", ""]
    return "\n".join(lines)


class PlatformWheel(bdist_wheel):
    """One wheel for every Python: the library knows none."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(ext_modules=[CPU_LIBRARY, CUDA_LIBRARY], cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel})
