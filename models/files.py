"""Writing a file so that a reader, or a process killed at any moment, finds the old content or the new, whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

# Marks files being written: what a killed process left behind under such a name may be removed.
PARTIAL = ".partial-"


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` on a file beside `path`, bring it to the disk, and only then give it the name.

    Where `write` or the disk fails, the old file stays, what was written is removed and the error goes on.
    """
    partial = path.with_name(f"{path.name}{PARTIAL}{os.getpid()}")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, so that a rename outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
