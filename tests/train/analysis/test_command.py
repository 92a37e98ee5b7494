"""`analyse`: runs side by side in one report, evaluated once, and one line for what cannot be."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

import mdnkernels.train.analysis.evaluations
from mdnkernels.train.__main__ import main
from mdnkernels.train.analysis.command import titles_of
from mdnkernels.train.analysis.evaluations import Machine
from mdnkernels.train.analysis.subject import Section, Subject
from mdnkernels.train.config.commands import EvaluateConfig
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.inference.evaluation import evaluate
from mdnkernels.train.loop.engine import fit
from mdnkernels.train.run.files import without_nan
from tests.train.drawn_data import DataPaths, tiny_fit

MACHINE = Machine("cpu", 8, 0)
QUICK = ["--workers", "0", "--device", "cpu"]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[EvaluateConfig]:
    """Give the evaluations that are made, as they come."""
    configs: list[EvaluateConfig] = []

    def noting(config: EvaluateConfig, **options: Any) -> dict[str, Any]:
        configs.append(config)
        return evaluate(config, **options)

    monkeypatch.setattr(mdnkernels.train.analysis.evaluations, "evaluate", noting)
    return configs


def test_several_runs_make_one_report_with_what_they_can_have(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report"
    only = ["--only", "training", "predictions"]
    assert main(["analyse", str(runs / "mixture"), str(runs / "base"), "--output", str(output), *only, *QUICK]) == 0
    text = (output / "report.md").read_text()
    assert text.startswith("# Detection: mixture, base\n")
    assert text.index("### Predictions") < text.index("### Training")  # in the registry's order
    for name in ("detection_predictions.png", "detection_training_curves.png"):
        assert f"]({name})" in text
        assert (output / name).stat().st_size > 1000
    content = json.loads((output / "analysis.json").read_text())
    assert content["runs"]["base"]["metrics"].keys() >= {"AP", "AP50"}
    assert content["analyses"].keys() == {"predictions", "training"}
    assert f"{output / 'report.md'}: predictions, training, of mixture, base" in capsys.readouterr().out


def test_what_runs_cannot_have_is_left_out_with_a_reason_or_refused_by_name(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mdnkernels.train.analysis import registry

    kept = {name: registry.ANALYSES[name] for name in ("scales", "views", "training")}
    monkeypatch.setattr("mdnkernels.train.analysis.command.ANALYSES", kept)
    base = str(runs / "base")
    assert main(["analyse", base, *QUICK]) == 0
    text = (runs / "base" / "analysis" / "report.md").read_text()
    assert "- views: is of pose, and these runs are of detection\n" in text
    assert "- scales: an analysis of mixture components needs a run that has some" in text
    assert "### Training" in text
    content = json.loads((runs / "base" / "analysis" / "analysis.json").read_text())
    assert content["left_out"].keys() == {"scales", "views"}
    assert "left out: views: is of pose" in capsys.readouterr().out
    assert main(["analyse", base, "--only", "views", *QUICK]) == 2
    assert "error: --only views: is of pose, and these runs are of detection" in capsys.readouterr().err
    assert main(["analyse", base, "--only", "scales", *QUICK]) == 2
    assert "error: --only scales: an analysis of mixture components needs a run" in capsys.readouterr().err


def test_mistakes_are_named(
    runs: Path, pose_run: Path, drawn_copy: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    val = {"val_images": drawn_copy.images, "val_annotations": drawn_copy.annotations}
    other = fit(tiny_fit(drawn_copy, tmp_path / "other", stop_after=1, **val))
    mixture = str(runs / "mixture")
    for arguments, message in (
        ([], "RUN: give at least one run directory"),
        ([mixture, mixture], f"RUN: {mixture} is given twice"),
        ([str(tmp_path / "absent")], "there is no such run directory"),
        ([mixture, "--only", "speeed"], "--only: there is no analysis 'speeed'; there are "),
        ([mixture, str(pose_run)], "is of pose"),
        ([mixture, str(other)], "only runs of the same val set can be compared"),
        ([mixture, "--batch", "0"], "--batch: must be at least 1"),
    ):
        assert main(["analyse", *arguments, *QUICK]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_evaluation_is_made_once_and_again_after_more_training(
    runs: Path, tmp_path: Path, made: list[EvaluateConfig]
) -> None:
    run = tmp_path / "copy"
    shutil.copytree(runs / "mixture", run)
    subject = Subject.of_run(run, machine=MACHINE)
    assert not made  # fit has evaluated it
    assert subject.results == json.loads((run / "evaluation" / "detections.json").read_text())
    flipped = subject.evaluate(InferenceConfig(flip=True))
    assert [config.inference.flip for config in made] == [True]
    expected = evaluate(
        EvaluateConfig(run=run, output=tmp_path / "out", workers=0, device="cpu", inference=InferenceConfig(flip=True))
    )
    assert flipped.metrics["AP50"] == expected["AP50"]
    assert flipped.results == json.loads((tmp_path / "out" / "detections.json").read_text())
    subject.evaluate(InferenceConfig(flip=True))
    subject.evaluate(InferenceConfig(flip=True), timed=True)
    assert len(made) == 1
    subject.evaluate(InferenceConfig(flip=True), each_component=True)
    subject.evaluate(InferenceConfig(flip=True), each_component=True)
    assert len(made) == 2
    subject.evaluate(InferenceConfig(), timed=True)  # that of fit is not as fast as the network can be
    assert len(made) == 3
    shutil.rmtree(run / "evaluation")
    evaluate(EvaluateConfig(run=run, workers=0, device="cpu", inference=InferenceConfig(scales=(0.5,))))
    Subject.of_run(run, machine=MACHINE)  # the last one has other options; the timed one has the defaults
    assert len(made) == 3
    assert main(["fit", "--resume", str(run), "--epochs", "3", "--drop-epochs", "1"]) == 0
    subject.evaluate(InferenceConfig(flip=True))
    assert len(made) == 4


def test_run_without_an_evaluation_is_evaluated(drawn: DataPaths, tmp_path: Path, made: list[EvaluateConfig]) -> None:
    val = {"val_images": drawn.images, "val_annotations": drawn.annotations, "val_limit": 3}
    stopped = fit(tiny_fit(drawn, tmp_path / "stopped", stop_after=1, **val))
    assert main(["analyse", str(stopped), "--only", "scales", *QUICK]) == 0
    (config,) = made
    assert config.output is not None
    assert config.output.parent == stopped / "evaluations"
    # What is compared with the truth is of the images that were looked at.
    subject = Subject.of_run(stopped, machine=MACHINE)
    assert [image["id"] for image in subject.truth["images"]] == [1, 2, 3]
    assert {one["image_id"] for one in subject.truth["annotations"]} == {1, 2, 3}
    assert {one["image_id"] for one in subject.results} == {1, 2, 3}


def test_evaluation_that_was_cut_off_is_not_taken(runs: Path, tmp_path: Path, made: list[EvaluateConfig]) -> None:
    run = tmp_path / "copy"
    shutil.copytree(runs / "base", run)
    (run / "evaluation" / "made.json").write_text("{")
    Subject.of_run(run, machine=MACHINE)
    assert len(made) == 1


def test_titles_are_the_shortest_that_tell_runs_apart(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("a/one", "b/one", "b/two")]
    assert titles_of(runs) == ["a/one", "b/one", "two"]
    with pytest.raises(ConfigError, match=r"RUN: .*one is given twice"):
        titles_of([runs[0], tmp_path / "b" / ".." / "a" / "one"])


def test_what_is_not_defined_is_null_in_json() -> None:
    assert without_nan({0: [math.nan, (1.5, math.inf)], "a": {"b": -1}}) == {"0": [None, [1.5, None]], "a": {"b": -1}}


def test_an_analysis_is_a_function_from_subjects_to_a_section(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mdnkernels.train.analysis.registry import Analysis

    own = Analysis(("detection",), lambda subjects: Section(["### Own", ""], {"titles": len(subjects)}, {}))
    monkeypatch.setattr("mdnkernels.train.analysis.command.ANALYSES", {"own": own})
    assert main(["analyse", str(runs / "base"), "--output", str(tmp_path), *QUICK]) == 0
    assert "### Own" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "analysis.json").read_text())["analyses"] == {"own": {"titles": 1}}
