"""A run's files, written so that a kill at any moment leaves the old content or the new (`models.files`)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from PIL.Image import Image

from mdnkernels.models.files import PARTIAL, write_atomically


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 by `write_atomically`."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """Write a value as JSON by `write_atomically`."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def without_nan(value: Any) -> Any:
    """Return a value for JSON, which has no NaN and no infinity: what is not defined becomes null."""
    if isinstance(value, dict):
        return {str(key): without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_picture(path: Path, picture: Image) -> None:
    """Write a picture as PNG by `write_atomically`."""
    write_atomically(path, lambda file: picture.save(file, format="PNG"))


def remove_partial(folder: Path) -> None:
    """Remove what killed processes were writing in a folder, which no other process may be writing to."""
    for path in folder.glob(f"*{PARTIAL}*"):
        path.unlink()
