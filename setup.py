"""Builds the native library, a plain shared object that registers its ops with torch when it is loaded.

It is written against torch's stable C++ API and includes no Python.h, so one build serves every torch >= 2.10 and every
Python. Kernel files (*_kernel.cpp) are compiled once for each instruction set; which one runs is decided at run time.
Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import os
import platform
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
NATIVE = Extension(
    "mdnkernels.native.libmdnkernels_cpu", sources=[], optional=True
)  # there is no library without a compiler

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


class BuildNative(build_ext):
    """Compiles with ninja: in parallel, and only what changed."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"

    def build_extension(self, ext: Extension) -> None:
        library = Path(self.get_ext_fullpath(ext.name)).resolve()
        compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            print(
                "mdnkernels: no C++ compiler found (set CXX or install g++ or clang++): installing without the native "
                "library; the ops run on the eager backend",
                file=sys.stderr,
            )
            return
        library.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(self.build_temp).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_text(ninja_file(compiler, torch_folder(), library))
        ninja = shutil.which("ninja") or str(Path(sysconfig.get_path("scripts")) / "ninja")
        subprocess.run([ninja, "-C", str(folder)], check=True)


def ninja_file(compiler: str, torch: Path, library: Path) -> str:
    """The build as text: one rule to compile, one to link."""
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


class PlatformWheel(bdist_wheel):
    """One wheel for every Python: the library knows none."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(ext_modules=[NATIVE], cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel})
