"""The blocks of code in the README and in docs/."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
# A block that begins so is shown and not run, and says why to its reader.
EXEMPT = re.compile(r"# Not run by the tests: \S+")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, line and language."""

    page: str
    line: int
    language: str
    text: str

    @property
    def exempt(self) -> bool:
        return EXEMPT.match(self.text) is not None


def blocks_of(path: Path) -> list[Block]:
    text, page = path.read_text(), path.relative_to(ROOT).as_posix()
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["language"], found["text"])
        for found in FENCE.finditer(text)
    ]
