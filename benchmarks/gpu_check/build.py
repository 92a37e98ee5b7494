"""Builds the CPU's and the CUDA library in parallel and puts what was built in its place in the checkout.

The exit status is 0 where both were built. Where the CUDA library does not compile, the CPU's is put in place all the
same, so that the rest can be checked. The compilers print their own output; its first lines about errors are repeated
at the end. setup.py runs in a folder without pyproject.toml, because an old setuptools refuses the metadata there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "gpu_check"
NATIVE = Path("mdnkernels") / "native"
# Matches what compilers, ninja and setup.py say of an error, and no command line that has the word in an option.
ERROR = re.compile(r"\berror\b[: ]|^FAILED|MDNKERNELS_BUILD_CUDA=1 asks", re.IGNORECASE)
SHOWN, LONGEST = 8, 300


def build(*options: str, cuda: bool) -> tuple[int, list[str]]:
    """Run setup.py, which writes its libraries to FOLDER.

    Returns:
        The exit status of setup.py, and the lines of its output that name errors.
    """
    places = ("--build-lib", str(FOLDER / "lib"), "--build-temp", str(FOLDER / "objects"))
    command = [sys.executable, str(ROOT / "setup.py"), "build_ext", *places, *options]
    environment = {**os.environ, "MDNKERNELS_BUILD_CUDA": "1" if cuda else "0"}
    print(f"$ MDNKERNELS_BUILD_CUDA={environment['MDNKERNELS_BUILD_CUDA']} {' '.join(command)}", flush=True)
    process = subprocess.Popen(
        command, cwd=FOLDER, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    errors = []
    for line in process.stdout:
        print(line, end="", flush=True)
        if ERROR.search(line):
            errors.append(line.strip()[:LONGEST])
    return process.wait(), errors


def put_in_place(name: str) -> bool:
    """Copy a library from FOLDER into the checkout, and tell whether it was there to copy.

    A process that has loaded the old library keeps the old file.
    """
    built, place = FOLDER / "lib" / NATIVE / name, ROOT / NATIVE / name
    place.unlink(missing_ok=True)
    if not built.exists():
        print(f"{name} was not built", flush=True)
        return False
    shutil.copy2(built, place)
    print(f"{name} was built", flush=True)
    return True


def main() -> int:
    shutil.rmtree(FOLDER / "lib", ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    status, errors = build("--parallel", "2", cuda=True)
    if status != 0:
        print("the build of both libraries failed: now the CPU's alone", flush=True)
        build(cuda=False)
    libraries = ("libmdnkernels_cpu.so", "libmdnkernels_cuda.so")
    there = [put_in_place(name) for name in libraries]
    subprocess.run([sys.executable, "-m", "mdnkernels"], cwd=ROOT)
    if errors:
        print("\n".join(["what was said of errors:", *errors[:SHOWN]]), flush=True)
    return status or (0 if all(there) else 1)


if __name__ == "__main__":
    sys.exit(main())
