"""Build twice, in this folder and from the sdist in another one, and compare: python wheels/compare.py [cpu] [cuda].

What is built is the same to the byte, or the differing parts are named and the status is 1. The libraries must not name
a folder of this machine either.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from build import KINDS, ROOT, build, epoch


def parts(file: Path) -> dict[str, str]:
    """Return a hash of each file in a wheel or sdist, by its name."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            return {name: hashlib.sha256(wheel.read(name)).hexdigest() for name in wheel.namelist()}
    with tarfile.open(file) as sdist:
        files = {member.name: sdist.extractfile(member) for member in sdist.getmembers() if member.isfile()}
        return {name: hashlib.sha256(stream.read()).hexdigest() for name, stream in files.items() if stream is not None}


def folders_named(wheel: Path, folders: list[Path]) -> list[str]:
    """Return which of `folders`, or of nvcc's temporary files, the libraries in a wheel name."""
    names = [*(str(folder) for folder in folders if folder.is_absolute()), "tmpxft"]
    with zipfile.ZipFile(wheel) as file:
        libraries = [file.read(name) for name in file.namelist() if name.endswith(".so")]
    return [name for name in names if any(name.encode() in library for library in libraries)]


def main() -> int:
    """Build, compare, and print a line for each file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", default=["cpu"], choices=KINDS, metavar="KIND")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder of the first build's files (dist)")
    parser.add_argument("--objects", type=Path, default=ROOT / "build" / "objects", help="what it has compiled")
    options = parser.parse_args()
    kinds = ["sdist", *(kind for kind in options.kinds if kind != "sdist")]
    first = build(kinds, options.output, options.objects)
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch(ROOT))
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(first[0]) as sdist:
            sdist.extractall(folder, filter="data")
        (unpacked,) = Path(folder).iterdir()
        second = build(kinds, Path(folder) / "dist", Path(folder) / "objects", unpacked)
        for one, other in zip(first, second, strict=True):
            same = one.name == other.name and one.read_bytes() == other.read_bytes()
            here = [ROOT, Path(sys.prefix), *map(Path, sys.path), Path(folder)]
            named = folders_named(one, here) if one.suffix == ".whl" else []
            print(f"{one.name}: {'the same bytes' if same else 'DIFFERENT'}, {one.stat().st_size / 1e6:.2f} MB")
            if not same:
                a, b = parts(one), parts(other)
                print("  differing:", *sorted(name for name in {*a, *b} if a.get(name) != b.get(name)))
            if named:
                print("  its libraries name:", *named)
            failed |= not same or bool(named)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
