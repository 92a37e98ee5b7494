"""The command line: help, options, exit statuses, and one line for each mistake."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mdnkernels.__main__
import mdnkernels.train.__main__
from mdnkernels.train.__main__ import main, parse
from mdnkernels.train.config.commands import EvaluateConfig, FitConfig, PredictConfig
from mdnkernels.train.config.options import InferenceConfig
from tests.train.drawn_data import ROOT, DataPaths


def fit_arguments(data: DataPaths, run: Path, *more: str) -> list[str]:
    paths = ["--run", str(run), "--train-images", str(data.images), "--train-annotations", str(data.annotations)]
    quick = ["--input-size", "64", "--batch", "4", "--workers", "0", "--epochs", "1", "--device", "cpu"]
    return ["fit", *paths, *quick, *more]


COMMANDS = ("fit", "evaluate", "predict", "analyse", "export", "check-data", "demo", "reproduce")


@pytest.mark.parametrize("command", [[], *([command] for command in COMMANDS)])
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse([*command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for expected in {"fit": ("--train-annotations", "--components", "--resume"), "predict": ("IMAGE",)}.get(
        command[0] if command else "", ("--help",)
    ):
        assert expected in text


def test_help_breaks_no_line_where_its_source_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit):
        parse(["predict", "--help"])
    text = capsys.readouterr().out
    assert "or as many as there are cores that others leave free at the start. (default: None)" in text  # its own
    assert (
        "the component of largest weight. density: the one whose density is largest at its own mean" in text
    )  # within


def test_help_lists_every_command_and_answers_without_what_networks_need(capsys: pytest.CaptureFixture[str]) -> None:
    heavy = {"accelerate", "matplotlib", "PIL", "torchvision"}
    code = f"import sys, mdnkernels.train.__main__; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"• {command} " in text
    assert mdnkernels.__main__.COMMANDS == COMMANDS  # which are named without tyro too


@pytest.mark.parametrize(
    ("arguments", "suggested"),
    [
        (["predict", "--sead", "3", "a.jpg"], None),  # --seed is one of fit, check-data and demo
        (["predict", "--stop-after", "3", "a.jpg"], None),
        (["predict", "--threshhold", "3", "a.jpg"], "--threshold"),
        (["evaluate", "--train-images", "x", "r"], None),
        (["demo", "--epoch", "3"], "--epochs"),
        (["fit", "--run", "r", "--epoch", "3"], "--epochs"),
    ],
)
def test_unknown_option_is_answered_with_options_of_its_command(
    arguments: list[str], suggested: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
    text = capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse([arguments[0], "--help"])
    own = options_in(capsys.readouterr().out)
    assert f"python -m train {arguments[0]} --help" in text
    named = options_in(text) - set(arguments)
    assert named <= own
    assert suggested is None or suggested in named


def options_in(text: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z-]*", text))


def test_unknown_command_is_answered_with_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["prdict", "a.jpg"])
    assert caught.value.code == 2
    shown = capsys.readouterr().err.replace("│", " ")  # in a box, as wide as the terminal
    assert ", ".join(COMMANDS) in " ".join(shown.split())


def test_options_become_fields(drawn: DataPaths, tmp_path: Path) -> None:
    more = ["--components", "0", "--no-augment", "--drop-epochs", "3", "5", "--lr", "1e-3", "--arch", "hourglass104"]
    config = parse(fit_arguments(drawn, tmp_path / "run", *more))
    assert isinstance(config, FitConfig)
    assert (config.model.components, config.model.arch) == (0, "hourglass104")
    assert config.augment.augment is False
    assert (config.optimizer.drop_epochs, config.optimizer.lr) == ((3, 5), 1e-3)
    assert config.data.train_images == drawn.images
    expected = EvaluateConfig(run=Path("r"), inference=InferenceConfig(component=1, scales=(0.5, 1.0), flip=True))
    assert parse(["evaluate", "r", "--component", "1", "--scales", "0.5", "1", "--flip"]) == expected
    predict = parse(["predict", "a.jpg", "b.jpg", "--run", "r", "--no-pictures"])
    assert predict == PredictConfig(images=(Path("a.jpg"), Path("b.jpg")), run=Path("r"), pictures=False)


def test_fit_resume_evaluate_predict_in_a_row(
    drawn: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    val = ["--val-images", str(drawn.images), "--val-annotations", str(drawn.annotations)]
    assert main(fit_arguments(drawn, run, *val)) == 0
    assert main(["fit", "--resume", str(run), "--epochs", "2", "--lr", "1e-4"]) == 0
    stored = json.loads((run / "config.json").read_text())
    assert (stored["optimizer"]["epochs"], stored["optimizer"]["lr"]) == (2, 1e-4)
    assert stored["data"]["input_size"] == 64
    assert stored["resume"] is None
    assert main(["evaluate", str(run), "--workers", "0"]) == 0
    assert "Average Precision" in capsys.readouterr().out
    image = str(drawn.images / "001.jpg")
    out = str(tmp_path / "out")
    assert main(["predict", image, "--run", str(run), "--output", out]) == 0
    assert main(["predict", image, "--run", str(run), "--output", out]) == 2
    assert f"--output: {out} is there already" in capsys.readouterr().err
    assert main(["predict", image, "absent.jpg", "--run", str(run)]) == 1
    assert f"{run / 'predictions'}: 1 images, " in capsys.readouterr().out
    assert main(["predict", image, "--run", str(run)]) == 0
    assert f"{run / 'predictions-2'}: 1 images, " in capsys.readouterr().out
    assert (run / "predictions" / "001.png").is_file()


def test_without_a_run_files_go_where_git_ignores_them(
    drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(fit_arguments(drawn, tmp_path / "run")) == 0
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    data = ["--images", str(drawn.images), "--annotations", str(drawn.annotations)]
    checkpoint = ["--checkpoint", str(tmp_path / "run" / "checkpoints" / "last.pt")]
    assert main(["check-data", *data, "--input-size", "64"]) == 0
    assert main(["evaluate", *checkpoint, *data, "--workers", "0"]) == 0
    assert main(["predict", *checkpoint, str(drawn.images / "001.jpg")]) == 0
    assert [path.name for path in Path().iterdir()] == ["runs"]
    assert sorted(path.name for path in Path("runs").iterdir()) == ["data-check", "evaluation", "predictions"]
    assert "runs/" in (ROOT / ".gitignore").read_text().split()


def test_an_interruption_ends_with_130_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(config: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(mdnkernels.train.__main__, "run", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("command", ["fit", "check-data"])
@pytest.mark.parametrize(
    "text", ['{"images": ' + 200_000 * "[", '{"images": [{"id": 1' + 400 * "0" + '}], "categories": []}']
)
def test_absurd_annotation_file_is_one_line_and_exit_2(
    drawn: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, text: str
) -> None:
    data = DataPaths(drawn.images, tmp_path / "absurd.json")
    data.annotations.write_text(text)
    check = ["check-data", "--images", str(data.images), "--annotations", str(data.annotations)]
    assert main(fit_arguments(data, tmp_path / "run") if command == "fit" else check) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"error: {data.annotations}: ")
    assert len(lines[0]) < 400


def test_mistakes_are_one_line_and_exit_2(drawn: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "config.json").touch()
    for arguments, message in [
        (fit_arguments(drawn, tmp_path / "taken"), "is there already; take another name"),
        (fit_arguments(drawn, tmp_path / "older"), "is there already; go on with it by --resume"),
        (
            fit_arguments(drawn, tmp_path / "run", "--arch", "dla34", "--imagenet", "a.pth"),
            "--imagenet: a.pth: there is",
        ),
        (["evaluate", "--run", "r"], "--run: evaluate takes the run directory without it: evaluate r"),
        (["evaluate", str(tmp_path / "taken")], "taken: is not a run directory"),
        (["predict", str(tmp_path / "older"), "a.jpg"], "older is a run directory, which --run takes"),
        (["fit", "--resume", str(tmp_path / "absent")], "is this a run directory?"),
        (["fit", "--resume", str(tmp_path / "taken"), "--run", str(tmp_path / "other")], "--run, --resume: give one"),
        (fit_arguments(drawn, tmp_path / "run", "--lr", "-1"), "--lr: must be positive and finite, not -1.0"),
        (fit_arguments(drawn, tmp_path / "run", "--train-annotations", "absent.json"), "absent.json: there is no such"),
        (["evaluate", "--checkpoint", str(drawn.annotations)], "is not a readable checkpoint"),
        (["predict", "a.jpg"], "--run or --checkpoint"),
        (["evaluate"], "a run directory or --checkpoint"),
        (["predict", "--run", str(tmp_path)], "IMAGE: give at least one file, folder or 'pattern'"),
        (["predict", "--run", str(tmp_path), f"{tmp_path}/*.jpg"], f"IMAGE: the pattern '{tmp_path}/*.jpg' matches no"),
        (["predict", "--run", str(tmp_path), str(tmp_path)], f"IMAGE: there is no image in the folder {tmp_path}"),
        (["predict", "a.jpg", "--output", str(tmp_path / "taken")], "--output: "),
        (["predict", "a.jpg", "--device", "cuda:7"], "--device: cuda:7 is not there; this machine has cpu"),
        (
            ["evaluate", "--checkpoint", "a.pt", "--precision", "float16", "--device", "cpu"],
            "a.pt: there is no such",
        ),
        (
            ["predict", "a.jpg", "--precision", "float16", "--device", "cpu"],
            "float16: needs a GPU; take bfloat16 on a CPU",
        ),
    ]:
        assert main(arguments) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        assert message in lines[0]
