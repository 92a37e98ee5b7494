"""Of which sources a native library was built: setup.py writes it into the library, and library.py compares.

setup.py runs this file by its path: it imports nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from pathlib import Path

# What only the other library is compiled of.
_OTHERS = {"cpu": (".cu", ".cuh"), "cuda": (".cpp",)}


def fingerprint(csrc: Path, library: str) -> str:
    """Return a hash of the sources in the folder `csrc` of one library: "cpu" or "cuda"."""
    digest = hashlib.sha256()
    for path in sorted(csrc.rglob("*.*")):
        if path.suffix in {".cpp", ".h", ".cu", ".cuh"} - {*_OTHERS[library]}:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(csrc).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def built_of(library: Path) -> str | None:
    """Return the fingerprint that stands in a library's file, which is not loaded, or None where none does."""
    if library.stat().st_size == 0:
        return None
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        mark = re.search(rb"mdnkernels sources ([0-9a-f]{64})", content)
        return None if mark is None else mark[1].decode()
