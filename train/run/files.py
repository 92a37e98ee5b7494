"""A run's files, written so that a kill at any moment leaves the old content or the new (`models.files`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL.Image import Image

from models.files import PARTIAL, write_atomically


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for a text, in UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    """`write_atomically` for a value as JSON."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def write_picture(path: Path, picture: Image) -> None:
    """`write_atomically` for a picture, as PNG."""
    write_atomically(path, lambda file: picture.save(file, format="PNG"))


def remove_partial(folder: Path) -> None:
    """Removes what killed processes were writing in a folder. Only for a folder that no other process writes to."""
    for path in folder.glob(f"*{PARTIAL}*"):
        path.unlink()
