"""The whole of it at its smallest: trainings in two worlds of each task, one report, and no training twice."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mdnkernels.train.config.commands import ReproduceConfig
from mdnkernels.train.contenders.worlds import WORLDS
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.reproduce import reproduce as module
from mdnkernels.train.reproduce.reproduce import reproduce
from mdnkernels.train.tasks import TaskName


@pytest.mark.long
def test_findings_are_written_and_nothing_is_trained_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shorten(task: TaskName, *knobs: tuple[float, ...]) -> None:
        families = zip(WORLDS[task], knobs, strict=True)
        monkeypatch.setitem(WORLDS, task, tuple(family._replace(knob=knob, main=1.0) for family, knob in families))

    shorten("detection", (1.0,), (0.0, 1.0))
    shorten("pose", (0.0, 1.0))
    config = ReproduceConfig(
        output=tmp_path / "out",
        components=(0, 1, 2),
        seeds=1,
        first_seed=0,
        train_pictures=2,
        val_pictures=2,
        image_size=96,
        epochs=1,
        batch=2,
        processes=0,
        device="cpu",
    )
    report = reproduce(config)
    text = (report / "findings.md").read_text()
    for part in (
        "## Boxes, sizes whatever the category",
        "## Boxes, a category for each size",
        "## Poses",
        "| MDN_2 |",
        "components stand for the view",
        "--components 0 1 2 --seeds 1 --first-seed 0",
    ):
        assert part in text
    figures = [line.partition("(")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert len(figures) == 2 + 3 + 2  # of boxes, one more; of one value of the knob, one less
    for figure in figures:
        with Image.open(report / figure) as picture:
            assert min(picture.size) > 200
    numbers = json.loads((report / "findings.json").read_text())
    assert {kind: len(found["measures"]) for kind, found in numbers.items()} == {"sizes": 3, "kinds": 6, "views": 6}
    for kind in numbers.values():
        # One seed has no spread, and shows no difference.
        assert {one["verdict"] for one in kind["findings"] if "higher" in one["claim"]} == {"not shown"}
    assert "15 of 15: views-0, seed 0, MDN_2" in capsys.readouterr().out

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("mdnkernels.train.contenders.jobs.fit", refuse)
    before = (report / "findings.md").read_text()
    assert reproduce(config) == report
    assert (report / "findings.md").read_text() == before
    with pytest.raises(ConfigError, match="made with other settings"):
        module.reproduce(ReproduceConfig(**{**vars(config), "lr": 1.0}))


def test_wrong_options_are_named(tmp_path: Path) -> None:
    for components in ((), (0, 1), (1, 3), (0, 3), (0, 1, 3, 3), (0, 1, -2)):
        with pytest.raises(ConfigError, match="--components: must be 0, 1 and at least one larger number"):
            reproduce(ReproduceConfig(output=tmp_path, components=components))
