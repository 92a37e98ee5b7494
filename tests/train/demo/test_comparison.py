"""The demo at its smallest: four trainings, one report; and what its first lines say of given numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mdnkernels.train.config.commands import DemoConfig
from mdnkernels.train.contenders.measures import SIZE_KINDS
from mdnkernels.train.demo.comparison import run_demo
from mdnkernels.train.demo.exhibits import say_boxes, say_poses
from mdnkernels.train.errors import ConfigError

TINY = {"train_pictures": 8, "val_pictures": 6, "image_size": 96, "epochs": 1, "device": "cpu", "processes": 0}


@pytest.mark.long
def test_both_tasks_are_trained_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_demo(DemoConfig(output=tmp_path / "demo", components=2, **TINY))  # type: ignore[arg-type]
    text = (report / "report.md").read_text()
    first, *rest = text.split("## ")
    assert first.startswith("# What the mixture did that the single-mode base could not\n\n**Boxes**: ")
    assert "**Poses**: " in first
    assert first.count("![") == 1
    for part in ("Boxes\n", "Poses\n", "| MDN_2 |", "| base |", "| cannot be told |", "started from the data"):
        assert part in "## ".join(rest)
    for line in text.splitlines():
        if line.startswith("!["):
            assert (report / line.partition("(")[2].rstrip(")")).stat().st_size > 1000
    assert text.count("![") == 6
    summary = json.loads((report / "summary.json").read_text())
    assert summary.keys() == {"detection", "pose", "seconds"}
    for task in ("detection", "pose"):
        for title in ("MDN_2", "base"):
            assert "AP" in summary[task]["metrics"][title]
    assert "the whole report, after" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"--output: .* is there already"):
        run_demo(DemoConfig(output=tmp_path / "demo", **TINY))  # type: ignore[arg-type]


def test_wrong_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--components: must be at least 1"):
        run_demo(DemoConfig(output=tmp_path / "other", components=0))
    with pytest.raises(ConfigError, match="--tasks: must be one or both"):
        run_demo(DemoConfig(output=tmp_path / "other", tasks=()))


def test_the_first_lines_claim_no_more_than_the_numbers_show() -> None:
    base = {f"{what} {kind}": 50.0 for what in ("AP", "overlap") for kind in SIZE_KINDS}
    better = {**base, "overlap small": 60.0, "overlap large": 49.0, "pearson": 0.91, "used": 3.0}
    worse = {**base, "overlap small": 49.0, "pearson": float("nan"), "used": 1.0}
    said = say_boxes(base, better)
    assert "fit the rare small objects better" in said
    assert "overlap, base to mixture: small 50.0 to 60.0" in said
    assert "3 components divide the objects by their size (correlation 0.91)" in said
    said = say_boxes(base, worse)
    assert "fit the rare sizes no better" in said
    assert "one component takes all objects" in said
    told = {"AP regressed": 20.0, "cramers v": 0.2}
    said = say_poses({"either hidden": 0.4, **told}, {"either hidden": 0.6, **told})
    assert "answers with one of the two poses" in said
    assert "0.40 to 0.60" in said
    assert "no nearer than the base" in say_poses({"either hidden": 0.6, **told}, {"either hidden": 0.5, **told})
