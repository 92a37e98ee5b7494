"""Each example runs, writes its picture, and shows what it says: the mixture explains new data better than one mode."""

from __future__ import annotations

import re
import runpy
import sys
import tempfile
from pathlib import Path

import matplotlib
import pytest
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[2]
EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}
STEPS = {
    "depth": 120,
    "handwriting": 8,
    "inverse_problem": 150,
    "keypoints": 5,
    "own_coco_data": 4,
    "speech": 30,
    "tabular": 60,
    "trajectories": 40,
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Return a function that runs an example and returns what it prints."""

    def run_example(name: str, *options: str) -> str:
        picture = tmp_path / "picture.png"
        monkeypatch.setattr(sys, "argv", [name, "--steps", str(STEPS[name]), "--output", str(picture), *options])
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.chdir(ROOT)
        backend = matplotlib.get_backend()
        plt.switch_backend("Agg")
        with matplotlib.rc_context():
            runpy.run_path(str(EXAMPLES[name]), run_name="__main__")
        plt.close("all")
        plt.switch_backend(backend)
        assert plt.imread(picture).shape[:2] == plt.imread(ROOT / "examples/pictures" / f"{name}.png").shape[:2]
        return capsys.readouterr().out

    return run_example


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "own_coco_data"])
def test_mixture_explains_new_data_better_than_one_mode(run, name: str):
    printed = run(name)
    one, mixture = (float(value) for value in re.findall(r"nll (-?\d+\.\d+)", printed))
    assert mixture < one, printed


def test_calibration_and_crps_are_better_too(run):
    printed = run("tabular")
    for measure in ("crps", "miscalibration"):
        one, mixture = (float(value) for value in re.findall(rf"{measure} (\d+\.\d+)", printed))
        assert mixture < one, printed


def test_own_data_are_checked_trained_on_scored_and_looked_for(run):
    printed = run("own_coco_data")
    assert re.search(r"32 images, \d+ objects, 0 of them bad", printed)
    commands = re.findall(r"^\$ mdnkernels ([\w-]+)", printed, re.MULTILINE)
    assert commands == ["check-data", "fit", "evaluate", "predict"]
    assert re.search(r"^AP \d+\.\d, shares of the components", printed, re.MULTILINE)
    assert "in 96 x 96 pixels" in printed


def test_an_example_is_short_says_its_command_and_is_in_the_table():
    table = (ROOT / "examples/README.md").read_text()
    assert sorted(STEPS) == sorted(EXAMPLES)
    for name, path in EXAMPLES.items():
        text = path.read_text()
        assert text.count("\n") < 80, name
        assert f"\n    python examples/{name}.py\n" in text
        assert "\nThe picture: " in text
        assert f"[{name}.py]({name}.py)" in table
        assert f"(pictures/{name}.png)" in table
