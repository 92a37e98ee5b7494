"""Builds the native libraries, plain shared objects that register their ops with torch when they are loaded.

They are written against torch's stable C++ API and include no Python.h, so one build serves every torch >= 2.10 and
every Python. The CPU's kernel files (*_kernel.cpp) are compiled once for each instruction set. Which one runs is
decided at run time. The CUDA library needs nvcc. It is built where the installed torch has CUDA, for the GPUs that are
present. The build says on the terminal what it takes:

    MDNKERNELS_BUILD_CUDA  0 leaves the CUDA library out; 1 builds it whatever torch is installed, or fails and says
                           why. Where nothing else names the GPUs, 1 builds for all of ARCHITECTURES that nvcc knows,
                           and PTX for those to come
    CUDA_HOME              the toolkit; by default /usr/local/cuda, or the one that the nvcc on PATH belongs to
    TORCH_CUDA_ARCH_LIST   the GPUs it is built for, "9.0" or "8.0;9.0+PTX" for instance, in place of those present
    MDNKERNELS_RELEASE     1 builds libraries to hand on: the same bytes wherever they are built, as small as they get.
                           They tell profilers no lines of the kernels, and debuggers no names
    MDNKERNELS_TORCH       the folder of a torch to build against, in place of the installed one: to cross-compile

Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import re
import runpy
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import setuptools

if int(setuptools.__version__.split(".")[0]) < 77:
    raise SystemExit(
        f"mdnkernels is built with setuptools >= 77, this is {setuptools.__version__}: upgrade it with pip"
    )

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
fingerprint = runpy.run_path(str(ROOT / "mdnkernels" / "native" / "sources.py"))["fingerprint"]
# Both are optional: a library is left out where there is no compiler for it.
CPU_LIBRARY = Extension("mdnkernels.native.libmdnkernels_cpu", sources=[], optional=True)
CUDA_LIBRARY = Extension("mdnkernels.native.libmdnkernels_cuda", sources=[], optional=True)

# The flags of each instruction set's copy of the kernels.
X86_LEVELS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}
# Python's own variable names another machine than this one, "linux-aarch64", where it is cross-compiled for.
MACHINE = os.environ.get("_PYTHON_HOST_PLATFORM", platform.machine()).lower()
LEVELS = X86_LEVELS if MACHINE.endswith(("x86_64", "amd64")) else {"baseline": []}

COMPILE_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
# Wide vectors pass only between functions that are inlined, so warnings about their calling convention are moot.
WARNINGS = ["-Wall", "-Wextra", "-Wno-psabi", "-Wno-ignored-attributes", "-Wno-unknown-pragmas"]
DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]  # torch 2.10's stable API
FIRST = CSRC / "core" / "glibc.h"  # included before every source, on Linux

# The architectures of A100; RTX 30 and A10; RTX 40 and L4; H100; B200; RTX 50.
ARCHITECTURES = ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]
# There is no fast-math, so that arithmetic stays IEEE's. Spills and local memory are worth a warning.
NVCC_FLAGS = ["-std=c++17", "-O3", "-Xptxas=-warn-spills,-warn-lmem-usage"]
NVCC_HOST_FLAGS = ["-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas"]

# How many seconds of one core it takes to compile the CPU library, and the CUDA library for one architecture.
CPU_SECONDS = 130
CUDA_SECONDS = 105


class Torch(NamedTuple):
    """The torch that is built against."""

    folder: Path
    version: str
    cuda: str | None  # the version of CUDA that it is built for


def installed_torch() -> Torch:
    """Find the installed torch. Under pip's build isolation it cannot be imported, but its files are still there."""
    folder = torch_folder()
    names = runpy.run_path(str(folder / "version.py"))
    version = str(names["__version__"])
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (2, 10):
        raise SystemExit(f"mdnkernels builds against torch >= 2.10, and {folder} is torch {version}: upgrade it first")
    return Torch(folder, version, names.get("cuda"))


def torch_folder() -> Path:
    if given := os.environ.get("MDNKERNELS_TORCH"):
        return Path(given).resolve()
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
    """Return the folder in which a CUDA toolkit has what the library is linked with."""
    folders = [toolkit / "lib64", toolkit / "lib", *sorted(toolkit.glob("targets/*/lib"))]
    return next((folder for folder in folders if (folder / "libcudart.so").exists()), None)


def cuda_toolkit() -> Path | None:
    """Return the folder of a CUDA toolkit that is complete enough to build with, or None."""
    on_path = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), "/usr/local/cuda", on_path and Path(on_path).resolve().parents[1]]
    for candidate in candidates:
        if candidate and (Path(candidate) / "bin" / "nvcc").exists() and library_folder(Path(candidate)):
            return Path(candidate)
    return None


def cuda_wanted() -> bool | None:
    """Return what MDNKERNELS_BUILD_CUDA says, or None where it leaves the choice to what is there."""
    value = os.environ.get("MDNKERNELS_BUILD_CUDA", "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"MDNKERNELS_BUILD_CUDA must be 0 or 1, got {value!r}")
    return None if value == "" else value == "1"


def toolkit_version(toolkit: Path) -> str:
    text = subprocess.run([toolkit / "bin" / "nvcc", "--version"], check=True, capture_output=True, text=True).stdout
    return re.search(r"release (\d+\.\d+)", text)[1]


def present_gpus() -> list[str]:
    """Return the architectures of the GPUs that CUDA's driver shows, "9.0" for instance, without torch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, major, minor, device = (ctypes.c_int() for _ in range(4))
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    found = set()
    for number in range(count.value):
        driver.cuDeviceGet(ctypes.byref(device), number)
        # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
        driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
        found.add((major.value, minor.value))
    return [f"{major}.{minor}" for major, minor in sorted(found)]


def known_architectures(nvcc: Path) -> list[str]:
    """Return the architectures that nvcc compiles for, in order."""
    text = subprocess.run([nvcc, "--list-gpu-code"], check=True, capture_output=True, text=True).stdout
    numbers = sorted(int(number) for number in re.findall(r"sm_(\d+)\b", text))
    return [f"{number // 10}.{number % 10}" for number in numbers]


def listed_architectures() -> list[str]:
    """Return the architectures that TORCH_CUDA_ARCH_LIST names, in the way of torch's own builds."""
    names = re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip())
    if names == [""]:
        return []
    for name in names:
        if re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", name) is None:
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST must hold names like 9.0 or 9.0+PTX, got {name!r}")
    return names


def for_present(gpus: list[str], known: list[str]) -> list[str]:
    """Return the architectures to build for so that these GPUs run the library.

    A GPU newer than nvcc compiles the newest PTX itself.
    """
    chosen = {gpu if gpu in known else f"{known[-1]}+PTX" for gpu in gpus if _number(gpu) >= _number(known[0])}
    return sorted(chosen, key=_number)


def _number(architecture: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", architecture)))


class CudaPlan(NamedTuple):
    """The architectures that the CUDA library is built for, and the reason. Without an architecture none is built."""

    architectures: list[str]
    why: str


def cuda_plan(torch: Torch) -> CudaPlan:
    """Decide about the CUDA library. Exit where MDNKERNELS_BUILD_CUDA=1 asks for one that cannot be built."""
    wanted, toolkit = cuda_wanted(), cuda_toolkit()
    ask = "MDNKERNELS_BUILD_CUDA=1 builds it all the same"
    if wanted is False:
        return CudaPlan([], "MDNKERNELS_BUILD_CUDA=0")
    if wanted is None and torch.cuda is None:
        return CudaPlan([], f"torch {torch.version} has no CUDA; {ask}")
    missing = "no C++ compiler was found" if cpp_compiler() is None else None
    if toolkit is None:
        missing = "no CUDA toolkit was found: set CUDA_HOME to one that holds bin/nvcc and libcudart.so"
    if toolkit is None or missing is not None:
        if wanted:
            raise SystemExit(f"MDNKERNELS_BUILD_CUDA=1 asks for the CUDA library, but {missing}")
        return CudaPlan([], str(missing))
    version = toolkit_version(toolkit)
    if wanted is None and version.split(".")[0] != str(torch.cuda).split(".")[0]:
        return CudaPlan([], f"nvcc's CUDA {version} does not fit torch {torch.version} for CUDA {torch.cuda}; {ask}")
    listed, known = listed_architectures(), known_architectures(toolkit / "bin" / "nvcc")
    if listed:
        return CudaPlan(listed, "TORCH_CUDA_ARCH_LIST")
    gpus = present_gpus()
    if fitting := for_present(gpus, known):
        return CudaPlan(fitting, "the GPUs present")
    if wanted:
        names = [name for name in ARCHITECTURES if name in known]
        return CudaPlan([*names[:-1], f"{names[-1]}+PTX"], "MDNKERNELS_BUILD_CUDA=1")
    absent = f"nvcc {version} knows no GPU that is present ({', '.join(gpus)})" if gpus else "no GPU is present"
    return CudaPlan([], f"{absent}; TORCH_CUDA_ARCH_LIST=9.0 builds it for an H100, for instance")


def code_flags(architectures: list[str]) -> list[str]:
    """Return nvcc's options for these GPUs, each as in torch's own builds."""
    flags = []
    for name in architectures:
        number = name.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if name.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def announcement(plan: CudaPlan, cores: int) -> str:
    """Return a line that says what is built, and about how long it takes where nothing is compiled yet."""
    seconds = (CPU_SECONDS + CUDA_SECONDS * len(plan.architectures)) / cores
    time = f"{math.ceil(seconds / 10) * 10} seconds" if seconds <= 90 else f"{math.ceil(seconds / 60)} minutes"
    gpus = ", ".join(plan.architectures)
    cuda = f"and the CUDA library for {gpus} ({plan.why})" if gpus else f"and no CUDA library ({plan.why})"
    return f"mdnkernels: building the CPU library {cuda}: about {time} on {cores} cores"


def tell(line: str) -> None:
    """Print on stderr, and on the terminal where stderr is another place: pip shows nothing of what a build prints."""
    print(line, file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
        try:
            with open("/dev/tty", "w") as terminal:
                terminal.write(f"\n{line}\n")
        except OSError:  # there is no terminal
            pass


class BuildNative(build_ext):
    """Compiles with ninja: in parallel, and only what changed."""

    def finalize_options(self) -> None:
        """Keep what is compiled for this checkout in one folder of it.

        `pip install --editable` would take a new folder each time, and compile all again.
        """
        asked = self.build_temp
        super().finalize_options()
        if asked is None and (self.inplace or self.editable_mode):
            self.build_temp = str(Path(__file__).resolve().parent / "build" / "objects")

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"

    def build_extensions(self) -> None:
        if cpp_compiler() is None and not cuda_wanted():
            tell(
                "mdnkernels: no C++ compiler found (set CXX or install g++ or clang++): installing without the native "
                "library; the ops run on the eager backend"
            )
            self.torch, self.cuda_plan = None, CudaPlan([], "no C++ compiler was found")
        else:
            self.torch = installed_torch()
            self.cuda_plan = cuda_plan(self.torch)
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            tell(announcement(self.cuda_plan, cores))
        super().build_extensions()

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
        if subprocess.run([ninja, "-C", str(folder)]).returncode != 0:
            without = "; MDNKERNELS_BUILD_CUDA=0 builds without it" if ext is CUDA_LIBRARY else ""
            raise SystemExit(f"mdnkernels: {library.name} could not be built, as said above{without}")

    def cpu_build(self, library: Path) -> str | None:
        """Return the build of the CPU library as ninja reads it, or None where there is no compiler."""
        compiler = cpp_compiler()
        return None if compiler is None else cpu_ninja(compiler, self.torch.folder, library)

    def cuda_build(self, library: Path) -> str | None:
        """Return the build of the CUDA library as ninja reads it, or None where none is built."""
        compiler, toolkit, architectures = cpp_compiler(), cuda_toolkit(), self.cuda_plan.architectures
        if not architectures or compiler is None or toolkit is None:
            return None
        return cuda_ninja(compiler, toolkit, self.torch.folder, library, architectures)


def release() -> bool:
    """Tell whether the libraries are built to be handed on (MDNKERNELS_RELEASE=1)."""
    value = os.environ.get("MDNKERNELS_RELEASE", "0")
    if value not in ("0", "1"):
        raise SystemExit(f"MDNKERNELS_RELEASE must be 0 or 1, got {value!r}")
    return value == "1"


def first_header() -> str:
    """Return the option that includes what every source must begin with."""
    return f"-include {FIRST}" if sys.platform == "linux" else ""


def path_flags(torch: Path) -> list[str]:
    """Return the compiler's options that keep this machine's folders out of the messages of a library's errors."""
    folders = [ROOT, torch / "include", (torch / "include").resolve()]  # the compiler follows links, or does not
    return [f"-ffile-prefix-map={folder}/=" for folder in folders]


def built_of(library: str) -> str:
    """Return the compiler's option that writes the fingerprint of a library's sources into it."""
    return f"-DMDN_SOURCES='\"{fingerprint(CSRC, library)}\"'"


def object_name(source: Path) -> str:
    """Return a source's path in csrc as one name, because sources of several ops have one file name."""
    return ".".join(source.relative_to(CSRC).with_suffix("").parts)


def cpu_ninja(compiler: str, torch: Path, library: Path) -> str:
    """Return the CPU library's build: one rule to compile, one to link."""
    flags = " ".join([*COMPILE_FLAGS, *WARNINGS, *DEFINES, *path_flags(torch), os.environ.get("CXXFLAGS", "")])
    link_flags = f"{'-s' if release() else ''} {os.environ.get('LDFLAGS', '')}"
    lines = [
        f"compile = {compiler} {flags} {first_header()} -I{CSRC} -isystem {torch}/include",
        "rule compile",
        "  command = $compile $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {compiler} -shared $in -o $out -L{torch}/lib -ltorch_cpu -lc10 {link_flags}",
    ]
    objects = []
    for source in sorted(CSRC.rglob("*.cpp")):
        levels = LEVELS if source.stem.endswith("_kernel") else {"baseline": []}
        for level, options in levels.items():
            objects.append(f"{object_name(source)}.{level}.o")
            flags = " ".join([*options, *([built_of("cpu")] if source.stem == "library" else [])])
            lines += [f"build {objects[-1]}: compile {source}", f"  flags = {flags}"]
    lines += [f"build {library}: link {' '.join(objects)}", f"default {library}", ""]
    return "\n".join(lines)


def cuda_ninja(compiler: str, toolkit: Path, torch: Path, library: Path, architectures: list[str]) -> str:
    """Return the CUDA library's build: one rule to compile with nvcc, one to link.

    The library looks up at run time what only a torch with CUDA has, so it is not linked to it.
    """
    nvcc = toolkit / "bin" / "nvcc"
    host_flags = ",".join([*NVCC_HOST_FLAGS, *path_flags(torch)])
    # Line numbers hold the paths of the sources.
    handed_on = ["--compress-mode=size"] if release() else ["-lineinfo"]
    flags = [*NVCC_FLAGS, *handed_on, *code_flags(architectures), f"-Xcompiler={host_flags}", *DEFINES, first_header()]
    lines = [
        "rule compile",
        f"  command = {nvcc} -ccbin {compiler} {' '.join(flags)} -I{CSRC} -isystem {torch}/include "
        "$flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {compiler} -shared $in -o $out -L{torch}/lib -ltorch_cpu -lc10 -L{library_folder(toolkit)} "
        f"-lcudart -ldl {'-s' if release() else ''}",
    ]
    objects = []
    for source in sorted(CSRC.rglob("*.cu")):
        objects.append(f"{object_name(source)}.o")
        # nvcc makes names of what a file keeps to itself from the file's path and a random number.
        names = f"-frandom-seed={objects[-1]} -Xcudafe --orig_src_path_name={source.relative_to(CSRC)}"
        flags = f"{names} {built_of('cuda')}" if source.stem == "launch" else names
        lines += [f"build {objects[-1]}: compile {source}", f"  flags = {flags}"]
    lines += [f"build {library}: link {' '.join(objects)}", f"default {library}", ""]
    return "\n".join(lines)


class PlatformWheel(bdist_wheel):
    """One wheel for every Python: the library knows none."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def description() -> str:
    """Return the README as an index of packages shows it: relative links and pictures lead nowhere there.

    A picture becomes its caption, a link its words.
    """
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(r"!?\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)


if __name__ == "__main__":
    setup(
        ext_modules=[CPU_LIBRARY, CUDA_LIBRARY],
        cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
        long_description=description(),
        long_description_content_type="text/markdown",
    )
