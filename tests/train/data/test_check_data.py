"""The report on a data set: its numbers, the mistakes in it, and a picture of what training would see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mdnkernels.train.__main__ import main
from mdnkernels.train.config.commands import CheckDataConfig
from mdnkernels.train.config.options import AugmentConfig
from mdnkernels.train.data.check import check_data
from mdnkernels.train.errors import ConfigError
from tests.train.animals import NAMES, SIGMAS, draw_animals
from tests.train.drawn_data import DataPaths, edit_json
from tests.train.figures import draw_figures


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


def report_of(data: DataPaths, output: Path, **options: object) -> dict:
    given = {"output": output, "input_size": 64, "samples": 1, **options}
    return check_data(CheckDataConfig(data.images, data.annotations, **given))  # type: ignore[arg-type]


def test_images_without_a_range_from_black_to_white_are_bad_ones(
    drawn_copy: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ramp = np.linspace(0, 1, 64 * 80).reshape(64, 80)
    Image.fromarray((65535 * ramp).astype(np.uint16)).save(drawn_copy.images / "16.tif")
    Image.fromarray((65535 * ramp).astype(np.int32)).save(drawn_copy.images / "32.tif")
    Image.fromarray(ramp.astype(np.float32)).save(drawn_copy.images / "float.tif")

    def change(root: dict) -> None:
        for one, name in zip(root["images"], ("16.tif", "32.tif", "float.tif"), strict=False):
            one |= {"file_name": name, "width": 80, "height": 64}
        root["annotations"] = [one for one in root["annotations"] if one["image_id"] > 3]

    edit_json(drawn_copy.annotations, change)
    report = report_of(drawn_copy, tmp_path)
    assert [one["id"] for one in report["bad_images"]] == [2, 3]
    assert "whole numbers of 32 bits" in report["bad_images"][0]["reason"]
    assert "floating-point numbers" in report["bad_images"][1]["reason"]
    assert "0 annotations and 2 images" in capsys.readouterr().out


def test_doubtful_entries_are_listed_with_what_mends_them(
    drawn_copy: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(root: dict) -> None:
        root["annotations"][0]["bbox"] = [200, 200, 20, 20]
        root["annotations"][1]["bbox"] = [-30, 2, 40, 20]
        root["annotations"].append({**root["annotations"][4], "id": 1000})
        root["images"].append({**root["images"][5], "id": 1000})
        root["annotations"][6]["area"] = 0

    edit_json(drawn_copy.annotations, change)
    report = report_of(drawn_copy, tmp_path)
    assert json.loads((tmp_path / "check.json").read_text()) == json.loads(json.dumps(report))
    assert [(one["kind"], one["count"]) for one in report["doubts"]] == [
        ("outside", 2),
        ("file_twice", 1),
        ("box_twice", 1),
        ("area", 1),
    ]
    assert len(report["bad_annotations"]) == 1
    assert "annotations[0].bbox: [200, 200, 20, 20] lies wholly outside image 1" in report["bad_annotations"][0]
    text = capsys.readouterr().out
    for expected in (
        "1 annotations and 0 images, which training leaves out",
        "2 boxes more than a pixel beyond the image, of which 1 wholly outside",
        "annotations[1].bbox: [-30, 2, 40, 20] in image",
        "006.jpg: images 6, 1000",
        "as annotations[4]",
        "annotations[6].area: 0 beside",
        "to mend it",
    ):
        assert expected in text
    assert "no bad entries" not in text


@pytest.mark.parametrize(
    "change",
    [
        lambda root: root["annotations"][1].update(bbox=[-30, 2, 40, 20]),
        lambda root: [one.update(bbox=[value / 80 for value in one["bbox"]]) for one in root["annotations"]],
        lambda root: root["annotations"].append({**root["annotations"][4], "id": 1000}),
        lambda root: root["images"].append({**root["images"][5], "id": 1000}),
        lambda root: root["annotations"][6].update(area=1),
        lambda root: [
            root["annotations"][0].update(bbox=[70, 70, 90, 90]),
            [one.pop(side) for one in root["images"] for side in ("width", "height")],  # known from the files alone
        ],
    ],
    ids=["outside", "fractions", "box twice", "file twice", "area", "unlisted sizes"],
)
def test_one_doubt_is_enough_to_withhold_that_nothing_is_bad(
    drawn_copy: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any
) -> None:
    edit_json(drawn_copy.annotations, change)
    assert len(report_of(drawn_copy, tmp_path)["doubts"]) == 1
    text = capsys.readouterr().out
    assert "doubtful entries" in text
    assert "no bad entries" not in text


def turn_files(data: DataPaths) -> None:
    """Store 001, 002 and 003 turned by EXIF 6, 8 and 3. The first two are not square."""
    for name, orientation, stored in (
        ("001.jpg", 6, Image.Transpose.ROTATE_90),
        ("002.jpg", 8, Image.Transpose.ROTATE_270),
        ("003.jpg", 3, Image.Transpose.ROTATE_180),
    ):
        exif = Image.Exif()
        exif[0x0112] = orientation
        with Image.open(data.images / name) as image:
            turned = image.transpose(stored)
        turned.save(data.images / name, quality=95, exif=exif)


@pytest.mark.parametrize("sizes", ["upright", "stored", "none"])
def test_turned_files_are_counted_and_the_lists_convention_named(
    drawn_copy: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str], sizes: str
) -> None:
    turn_files(drawn_copy)

    def change(root: dict) -> None:
        for one in root["images"][:2] if sizes == "stored" else ():
            one["width"], one["height"] = one["height"], one["width"]
        for one in root["images"] if sizes == "none" else ():
            del one["width"], one["height"]
        for one in root["annotations"]:
            one["bbox"] = [20, 20, 9, 9]  # fits either image
        root["annotations"] = [one for i, one in enumerate(root["annotations"]) if i % 3 == 0]

    edit_json(drawn_copy.annotations, change)
    turned = report_of(drawn_copy, tmp_path)["turned"]
    text = capsys.readouterr().out
    assert (turned["files"], turned["orientations"]) == (3, {"3": 1, "6": 1, "8": 1})
    assert turned["first"][0].endswith("001.jpg")
    assert "3 images (1 by 3, 1 by 6, 1 by 8)" in text
    assert turned["boxes"] == {"stored": 0, "exif": 0}
    if sizes == "none":
        assert turned["likely"] is None
        assert "does not tell which it is of: compare samples.png" in text
    elif sizes == "stored":
        assert (turned["sizes"], turned["likely"]) == ({"stored": 2, "exif": 0}, "stored")
        assert "no bad entries" in text
    else:
        assert (turned["sizes"], turned["likely"]) == ({"stored": 0, "exif": 2}, "exif")
        assert "take --orientation exif" in text
        assert "0 annotations and 2 images" in text
        report = report_of(drawn_copy, tmp_path, orientation="exif")
        assert report["bad_images"] == []
        assert "no bad entries" in capsys.readouterr().out
    assert ("no bad entries" in text) == (sizes == "stored")


def test_boxes_tell_the_convention_where_sizes_do_not_or_contradict(
    drawn_copy: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turn_files(drawn_copy)

    def change(root: dict) -> None:
        root["annotations"][0] |= {"image_id": 1, "bbox": [70, 5, 10, 10]}  # in 80 x 72, not in 72 x 80
        for one in root["images"][:2]:
            one["width"], one["height"] = one["height"], one["width"]

    edit_json(drawn_copy.annotations, change)
    turned = report_of(drawn_copy, tmp_path)["turned"]
    assert turned["sizes"] == {"stored": 2, "exif": 0}
    assert turned["boxes"]["exif"] >= 1
    assert turned["likely"] is None
    assert "exchange width and height of these images in the list" in capsys.readouterr().out
    edit_json(drawn_copy.annotations, lambda root: [one.pop("width") for one in root["images"]])
    assert report_of(drawn_copy, tmp_path)["turned"]["likely"] == "exif"


def test_transparent_images_are_named(
    drawn_copy: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(drawn_copy.images / "003.jpg") as image:
        image.putalpha(Image.new("L", image.size, 128))
        image.save(drawn_copy.images / "003.png")
    edit_json(drawn_copy.annotations, lambda root: root["images"][2].update(file_name="003.png"))
    assert report_of(drawn_copy, tmp_path)["transparent"] == [str(drawn_copy.images / "003.png")]
    text = capsys.readouterr().out
    assert "1 images with transparent pixels" in text
    assert "no bad entries" in text


def test_people_without_keypoints_and_unused_categories_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw_figures(tmp_path / "data")

    def change(root: dict) -> None:
        root["categories"].append({"id": 2, "name": "ball"})
        root["annotations"][0].pop("keypoints")
        root["annotations"][2]["keypoints"] = []

    edit_json(data.annotations, change)
    report = report_of(data, tmp_path, task="pose")
    assert report["unused_categories"] == ["categories[1]: 'ball' has no annotation"]
    assert len(report["people_without_keypoints"]) == 2
    assert report["keypoints"]["people_without"] == 2
    assert [one["name"] for one in report["categories"]] == ["person"]
    text = capsys.readouterr().out
    assert "1 category without annotations, left out" in text
    assert "2 people without keypoints, who count as people with none labelled" in text
    assert "no bad entries" not in text


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


def test_check_data_says_the_skeleton(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = draw_animals(tmp_path / "data")
    config = CheckDataConfig(
        data.images, data.annotations, task="pose", output=tmp_path / "out", keypoint_sigmas=SIGMAS, input_size=96
    )
    report = check_data(config)
    assert report["skeleton"] == {
        "sigmas": dict(zip(NAMES, SIGMAS, strict=True)),
        "flip_pairs": [["left_ear", "right_ear"]],
        "unpaired": [],
        "links": [["nose", "left_ear"], ["nose", "right_ear"], ["nose", "back"], ["back", "tail"]],
    }
    assert json.loads((tmp_path / "out" / "check.json").read_text()) == report
    text = capsys.readouterr().out
    assert "constants of OKS: nose 0.03, left_ear 0.05, right_ear 0.05, back 0.1, tail 0.08" in text
    assert "change places in mirrored images: left_ear and right_ear\n4 links to draw" in text
    assert (tmp_path / "out" / "samples.png").is_file()
    edit_json(data.annotations, lambda root: root["categories"][0]["keypoints"].__setitem__(2, "ear"))
    check_data(config)
    text = capsys.readouterr().out
    assert "change places in mirrored images: none" in text
    assert "without a counterpart, so that training needs --flip 0: left_ear" in text
