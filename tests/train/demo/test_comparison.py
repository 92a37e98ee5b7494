"""The demo at its smallest: four trainings, one report."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from train.config.commands import DemoConfig
from train.demo import contenders
from train.demo.comparison import run_demo
from train.errors import ConfigError

TINY = {"train_pictures": 8, "val_pictures": 6, "image_size": 64, "epochs": 1, "device": "cpu"}


@pytest.mark.long
def test_both_tasks_are_trained_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the demo's own, but torch is imported already.
    monkeypatch.setattr(contenders, "get_context", lambda _: multiprocessing.get_context("forkserver"))
    report = run_demo(DemoConfig(output=tmp_path / "demo", components=2, **TINY))  # type: ignore[arg-type]
    text = (report / "report.md").read_text()
    for part in ("## Boxes", "## Poses", "mixture, 2 components", "single-mode base (L1)", "| cannot be told |"):
        assert part in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (report / line.partition("(")[2].rstrip(")")).stat().st_size > 1000
    assert text.count("![") == 5
    summary = json.loads((report / "summary.json").read_text())
    assert summary.keys() == {"detection", "pose", "seconds"}
    for task in ("detection", "pose"):
        for title in ("mixture, 2 components", "single-mode base (L1)"):
            assert "AP" in summary[task]["metrics"][title]
    assert "the whole report, after" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"--output: .* is there already"):
        run_demo(DemoConfig(output=tmp_path / "demo", **TINY))  # type: ignore[arg-type]


def test_wrong_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--components: must be at least 1"):
        run_demo(DemoConfig(output=tmp_path / "other", components=0))
    with pytest.raises(ConfigError, match="--tasks: must be one or both"):
        run_demo(DemoConfig(output=tmp_path / "other", tasks=()))
