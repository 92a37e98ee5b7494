"""Tables of reports, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> list[str]:
    """Return the lines of a table whose first `words` columns are aligned left and the others, numbers, right.

    Raises ValueError for a row that has not the head's length.
    """
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"a row has {len(row)} cells, the table {len(head)} columns: {list(row)}")
    marks = ["---"] * words + ["---:"] * (len(head) - words)
    return [f"| {' | '.join(row)} |" for row in (head, marks, *rows)]


def percent(value: float | None) -> str:
    """Return a share of 1 in percent, to one decimal; "none" where there is nothing to measure (None, or COCO's -1)."""
    return "none" if value is None or value < 0 else f"{100 * value:.1f}"


def images_a_second(value: float) -> str:
    """Return images a second to three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
