"""Tables in Markdown, and numbers in their cells."""

from __future__ import annotations

import pytest

from train.analysis.tables import images_a_second, markdown_table, percent


def test_rows_have_a_cell_for_each_column() -> None:
    assert markdown_table(["run", "AP"], [["a", "1.0"], ["b", ""]]) == [
        "| run | AP |",
        "| --- | ---: |",
        "| a | 1.0 |",
        "| b |  |",
    ]
    with pytest.raises(ValueError, match=r"a row has 1 cells, the table 2 columns: \['a'\]"):
        markdown_table(["run", "AP"], [["a"]])


def test_what_cannot_be_measured_is_none() -> None:
    assert [percent(value) for value in (0.12349, 0, 1.0, -1.0, None)] == ["12.3", "0.0", "100.0", "none", "none"]


def test_speeds_have_three_digits() -> None:
    assert [images_a_second(value) for value in (0.12345, 14.08, 142.3, 1234.5)] == ["0.123", "14.1", "142", "1234"]
