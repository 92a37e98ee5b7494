"""COCO's val2017 is recognised, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest

from mdnkernels.train.analysis.paper import is_coco_val2017, paper_lines


def pictures(ids: list[int], name: str = "{:012d}.jpg") -> dict[str, Any]:
    return {"images": [{"id": identity, "file_name": name.format(identity)} for identity in ids]}


VAL2017 = [139, *range(1000, 5998), 581781]


@pytest.mark.parametrize(
    ("truth", "recognised"),
    [
        (pictures(VAL2017), True),
        (pictures(VAL2017, "val2017/{:012d}.jpg"), True),
        (pictures(VAL2017[:-1]), False),
        (pictures([9, *VAL2017[1:]]), False),
        (pictures(VAL2017, "{}.png"), False),
        (pictures([139] * 4999 + [581781]), False),
        (pictures([]), False),
    ],
)
def test_val2017_is_known_by_its_pictures(truth: dict[str, Any], recognised: bool) -> None:
    assert len(VAL2017) == 5000
    assert is_coco_val2017(truth) == recognised
    assert bool(paper_lines(truth, "scales")) == recognised


def test_an_analysis_without_a_finding_of_the_paper_has_no_lines() -> None:
    assert paper_lines(pictures(VAL2017), "training") == []
