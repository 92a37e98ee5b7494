"""The report on a data set: its numbers, what is wrong in it, and a picture of what training would see."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.train.drawn_data import DataPaths, edit_json
from tests.train.figures import draw_figures
from train.__main__ import main
from train.check_data import check_data
from train.config import AugmentConfig, CheckDataConfig
from train.errors import ConfigError


def test_numbers_are_those_of_the_list(drawn: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = check_data(CheckDataConfig(drawn.images, drawn.annotations, output=tmp_path, input_size=64))
    assert json.loads((tmp_path / "check.json").read_text()) == report
    root = json.loads(drawn.annotations.read_text())
    widths = [entry["bbox"][2] for entry in root["annotations"]]
    assert report["images"] == 8
    assert report["objects"] == len(widths)
    assert report["sides"]["width"]["min"] == min(widths)
    assert report["sides"]["width"]["mean"] == pytest.approx(np.mean(widths), abs=0.01)
    areas = [entry["area"] for entry in root["annotations"]]
    assert report["areas"] == {
        "small": sum(area < 1024 for area in areas),
        "medium": sum(1024 <= area < 9216 for area in areas),
        "large": 0,
    }
    assert {one["id"]: one["objects"] for one in report["categories"]} == {
        identity: sum(entry["category_id"] == identity for entry in root["annotations"]) for identity in (3, 7, 9)
    }
    assert "no bad entries" in capsys.readouterr().out


def test_everything_that_is_wrong_is_listed(
    drawn_copy: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (drawn_copy.images / "001.jpg").unlink()
    cut = drawn_copy.images / "002.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])

    def change(root: dict) -> None:
        root["images"][2]["width"] = 60
        root["annotations"][-1]["bbox"] = [3, 3, 0, 9]
        root["annotations"][-2]["iscrowd"] = 1

    edit_json(drawn_copy.annotations, change)
    out = str(tmp_path / "out")
    arguments = ["--images", str(drawn_copy.images), "--annotations", str(drawn_copy.annotations), "--output", out]
    assert main(["check-data", *arguments, "--input-size", "64"]) == 0
    report = json.loads((tmp_path / "out" / "check.json").read_text())
    assert [one["id"] for one in report["bad_images"]] == [1, 2, 3]
    for one, reason in zip(report["bad_images"], ("no such file", "truncated", "says 60 x"), strict=True):
        assert reason in one["reason"]
    assert len(report["bad_annotations"]) == 1
    assert report["crowds"] == 1
    text = capsys.readouterr().out
    assert "1 annotations and 3 images" in text
    assert "001.jpg: there is no such file" in text


def test_an_input_of_no_whole_cells_is_refused(drawn: DataPaths, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--input-size: 66 is no multiple of 4"):
        check_data(CheckDataConfig(drawn.images, drawn.annotations, output=tmp_path / "out", input_size=66))
    assert not (tmp_path / "out").exists()


def test_poses_report_their_keypoints(tmp_path: Path) -> None:
    data = draw_figures(tmp_path / "data")
    edit_json(data.annotations, lambda root: root["annotations"][0].update(keypoints=[0] * 51))
    report = check_data(CheckDataConfig(data.images, data.annotations, "pose", output=tmp_path, input_size=64))
    root = json.loads(data.annotations.read_text())
    visibility = [v for entry in root["annotations"] for v in entry["keypoints"][2::3]]
    assert report["keypoints"] == {
        "people_without": 1,
        "visible": visibility.count(2),
        "hidden": visibility.count(1),
        "not_labelled": visibility.count(0),
    }


@pytest.mark.parametrize("task", ["detection", "pose"])
def test_the_picture_shows_samples_beside_their_heatmaps(task: str, tmp_path: Path) -> None:
    data = draw_figures(tmp_path / "data")
    config = CheckDataConfig(
        data.images,
        data.annotations,
        task,  # type: ignore[arg-type]
        output=tmp_path,
        input_size=64,
        samples=2,
        augment=AugmentConfig(augment=False),
    )
    check_data(config)
    picture = np.asarray(Image.open(tmp_path / "samples.png").convert("RGB")).astype(int)
    # Pure orange stands for 1: at every centre, and nowhere in the pictures themselves.
    orange = (np.abs(picture - [255, 140, 0]) < 12).all(2)
    quarter = picture.shape[1] // 4
    columns = [orange[:, i * quarter : (i + 1) * quarter].sum() for i in range(4)]
    assert columns[1] > 50
    assert columns[3] > 50
    assert columns[0] == columns[2] == 0
