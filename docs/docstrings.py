"""Docstrings as Markdown: shapes such as (B, M*C, *P) hold no emphasis.

`::` before a formula is a colon.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object


def as_markdown(text: str) -> str:
    """Return a docstring whose stars outside of code are literal.

    Formulas, indented below `::`, stay as they are.
    """
    lines, formula = [], None
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip())
        if formula is not None and line.strip() and indent <= formula:
            formula = None
        if formula is None:
            words = re.split(r"(`[^`]*`)", line)
            line = "".join(
                word if word.startswith("`") else word.replace("*", r"\*")
                for word in words
            )
            if line.endswith("::"):
                formula, line = indent, line[:-1]
        lines.append(line)
    return "\n".join(lines)


class Docstrings(Extension):
    """Applies `as_markdown` to every docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
