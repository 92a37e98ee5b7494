"""Tables of numbers in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence


def shown(value: float, digits: int, unit: str = "") -> str:
    """Return a number with so many decimals and its unit; "none" where it is not defined (nan)."""
    return "none" if math.isnan(value) else f"{value:.{digits}f}{unit}"


def percent(share: float, digits: int = 0) -> str:
    """Return a share in [0, 1] as a percentage; "none" where it is not defined (nan)."""
    return shown(100 * share, digits, " %")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    """Return the lines of a table, and an empty one. The first `words` columns are of words, the others of numbers."""
    marks = ["---"] * words + ["---:"] * (len(header) - words)
    return [*(f"| {' | '.join(line)} |" for line in (header, marks, *rows)), ""]


def coco_cell(value: float) -> str:
    """Return one of COCO's numbers in percent, to one decimal; "none" where there is nothing to measure (-1)."""
    return "none" if value < 0 else f"{100 * value:.1f}"


def images_a_second(value: float) -> str:
    """Return a speed to three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
