"""Numbers in the cells of tables."""

from __future__ import annotations

from mdnkernels.train.analysis.tables import coco_cell, images_a_second


def test_what_coco_cannot_measure_is_none() -> None:
    assert [coco_cell(value) for value in (0.12349, 0, 1.0, -1.0)] == ["12.3", "0.0", "100.0", "none"]


def test_speeds_have_three_digits() -> None:
    assert [images_a_second(value) for value in (0.12345, 14.08, 142.3, 1234.5)] == ["0.123", "14.1", "142", "1234"]
