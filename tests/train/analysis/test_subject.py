"""What can be analysed: runs with an evaluation on a val set."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdnkernels.train.analysis.registry import ANALYSES
from mdnkernels.train.analysis.subject import Subject, mixtures_of
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.tasks.detection import DetectionTask
from tests.train.drawn_data import DataPaths, tiny_fit


def test_a_run_without_a_truth_or_without_an_evaluation_is_named(drawn: DataPaths, tmp_path: Path) -> None:
    alone = fit(tiny_fit(drawn, tmp_path / "alone", stop_after=1))
    with pytest.raises(ConfigError, match="alone: was trained without a val set"):
        Subject.of_run(alone)
    val = {"val_images": drawn.images, "val_annotations": drawn.annotations}
    stopped = fit(tiny_fit(drawn, tmp_path / "stopped", stop_after=1, **val))
    with pytest.raises(ConfigError, match=r"holds no evaluation; make one with: python -m train evaluate .*stopped"):
        Subject.of_run(stopped)


@pytest.mark.parametrize("name", ["scales", "viewpoint", "views", "visibility", "usage"])
def test_components_of_bases_alone_cannot_be_analysed(name: str, drawn: DataPaths) -> None:
    base = Subject("base", Path(), DetectionTask([]), 0, drawn.images, drawn.annotations, [], {})
    with pytest.raises(ConfigError, match="needs a run that has some"):
        ANALYSES[name].analyse([base])
    mixture = Subject("mixture", Path(), DetectionTask([]), 2, drawn.images, drawn.annotations, [], {})
    assert mixtures_of([base, mixture]) == [mixture]
