"""Which image files a command line means: files, folders and patterns."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mdnkernels.train.errors import ConfigError
from mdnkernels.train.run.directory import RunDirectory

logger = logging.getLogger("mdnkernels.train")

# What of a folder is taken. A file that is named itself, or by a pattern, may have any name.
SUFFIXES = frozenset(
    (
        *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    )
)


def find_images(given: Sequence[Path]) -> list[Path]:
    """Return the image files that paths mean, in the order given, each once.

    A folder means the images directly in it, sorted by name; hidden files are left out. A path that does not exist and
    has one of * ? [ is a pattern of the shell's kind, where ** stands for any folders; it means the files that it
    matches, sorted by name. Any other path is a file's, whether it is there or not.

    Raises ConfigError for no path at all, and, by its name, for a pattern that matches no file or a folder without
    images.
    """
    if not given:
        raise ConfigError("IMAGE: give at least one file, folder or 'pattern'")
    files: dict[str, Path] = {}
    for path in given:
        for file in _files_of(path):
            files.setdefault(os.path.abspath(file), file)
    return list(files.values())


def _files_of(path: Path) -> Iterable[Path]:
    if path.is_dir():
        return _images_in(path)
    if not path.exists() and glob.has_magic(str(path)):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        files = [match for match in matches if not match.is_dir()]
        if not files:
            folders = f", only folders, as {matches[0]}: name them without the pattern" if matches else ""
            raise ConfigError(f"IMAGE: the pattern '{path}' matches no file{folders}")
        return files
    return [path]


def _images_in(folder: Path) -> list[Path]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir()]
    images = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry not in folders]
    deeper = f"; for those in its folders give '{folder / '**' / '*.jpg'}', in quotes" if folders else ""
    if not images:
        if RunDirectory(folder).config.is_file():
            raise ConfigError(f"IMAGE: {folder} is a run directory, which --run takes")
        raise ConfigError(f"IMAGE: there is no image in the folder {folder}{deeper}")
    others = len(entries) - len(images) - len(folders)
    if others or folders:
        left_out = f"{others} files of other kinds and {len(folders)} folders left out"
        logger.info("%s: %d images; %s%s", folder, len(images), left_out, deeper)
    return images
