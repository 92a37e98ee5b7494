"""A list in which nothing can be a target is refused, or noted where it is evaluated on, with reason and counts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mdnkernels.train.__main__ import main
from mdnkernels.train.config.commands import CheckDataConfig, EvaluateConfig
from mdnkernels.train.data.check import check_data
from mdnkernels.train.data.coco_file import read_annotations
from mdnkernels.train.data.objects import can_be_targets, why_no_object
from mdnkernels.train.errors import DatasetError
from mdnkernels.train.inference.evaluation import evaluate
from mdnkernels.train.loop.engine import fit
from tests.train.drawn_data import DataPaths, edit_json, tiny_fit
from tests.train.figures import draw_figures
from tests.train.test_command_line import fit_arguments


def each(root: dict[str, Any], **changes: Any) -> None:
    for one in root["annotations"]:
        one.update(changes)


def crowds(root: dict[str, Any]) -> None:
    each(root, iscrowd=1)


def nothing(root: dict[str, Any]) -> None:
    root["annotations"] = []


def flat(root: dict[str, Any]) -> None:
    each(root, bbox=[3, 4, 0, 5])


def outside(root: dict[str, Any]) -> None:
    each(root, bbox=[5000, 6000, 20, 30])


def mixed(root: dict[str, Any]) -> None:
    each(root, iscrowd=1)
    root["annotations"] = root["annotations"][:3]
    root["annotations"][1].update(iscrowd=0, bbox=[1, 2, 3, -4])


def unlabelled(root: dict[str, Any]) -> None:
    each(root, keypoints=[5, 6, 0] * 17, num_keypoints=0)


REASONS = [
    (crowds, "detection", "COUNT annotations, all of them crowds (iscrowd is 1)"),
    (nothing, "detection", "there are no annotations"),
    (flat, "detection", "COUNT annotations, all of them left out as bad entries (the first: annotations[0].bbox: "),
    (outside, "detection", "COUNT annotations, all of them left out as bad entries (the first: annotations[0].bbox: "),
    (
        mixed,
        "detection",
        "3 annotations: 2 crowds (iscrowd is 1), 1 left out as bad entries (the first: annotations[1].bbox: ",
    ),
    (unlabelled, "pose", "COUNT annotations, all of them people without a labelled keypoint (every v is 0)"),
    (nothing, "pose", "there are no annotations"),
    (crowds, "pose", "COUNT annotations, all of them crowds (iscrowd is 1)"),
]


@pytest.fixture(params=REASONS, ids=lambda case: f"{case[1]}-{case[0].__name__}")
def without_objects(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[DataPaths, str, str]:
    """Return a data set without a target, its task, and the reason that should be given."""
    change, task, reason = request.param
    data = draw_figures(tmp_path / "data") if task == "pose" else request.getfixturevalue("drawn_copy")
    count = len(json.loads(data.annotations.read_text())["annotations"])
    edit_json(data.annotations, change)
    return data, task, reason.replace("COUNT", str(count))


def test_training_is_refused_with_the_reason_and_leaves_no_run(
    without_objects: tuple[DataPaths, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, task, reason = without_objects
    assert main(fit_arguments(data, tmp_path / "run", "--task", task)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {data.annotations}: no object to train on: {reason}")
    assert not (tmp_path / "run").exists()


def test_check_data_gives_the_same_reason(
    without_objects: tuple[DataPaths, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, task, reason = without_objects
    config = CheckDataConfig(data.images, data.annotations, task, output=tmp_path, input_size=64)  # type: ignore[arg-type]
    assert check_data(config)["no_object_to_train_on"].startswith(reason)
    text = capsys.readouterr().out
    assert f"\nno object to train on: {reason}" in text
    assert "no bad entries" not in text


def test_one_object_is_enough(drawn_copy: DataPaths, tmp_path: Path) -> None:
    edit_json(drawn_copy.annotations, crowds)
    edit_json(drawn_copy.annotations, lambda root: root["annotations"][3].update(iscrowd=0))
    annotations = read_annotations(drawn_copy.annotations)
    assert why_no_object(annotations) is None
    assert can_be_targets(annotations).tolist().count(True) == 1


def test_part_without_objects_is_refused_with_the_options_that_chose_it(drawn_copy: DataPaths, tmp_path: Path) -> None:
    def first_two_empty(root: dict[str, Any]) -> None:
        root["annotations"] = [one for one in root["annotations"] if one["image_id"] > 2][:5]

    edit_json(drawn_copy.annotations, first_two_empty)
    with pytest.raises(
        DatasetError, match=r"no object to train on in the 2 images that --train-limit .* leave of 8, which have 5"
    ):
        fit(tiny_fit(drawn_copy, tmp_path / "run", train_limit=2))


def test_evaluating_where_nothing_can_be_found_warns_with_the_reason(
    drawn: DataPaths, drawn_copy: DataPaths, tmp_path: Path, warned: list[str]
) -> None:
    edit_json(drawn_copy.annotations, crowds)
    val = {"val_images": drawn_copy.images, "val_annotations": drawn_copy.annotations}
    run = fit(tiny_fit(drawn, tmp_path / "run", epochs=1, **val))
    (message,) = warned
    assert f"{drawn_copy.annotations}: no object to find: " in message
    assert "all of them crowds" in message
    warned.clear()
    config = EvaluateConfig(run=run, workers=0, device="cpu", output=tmp_path)
    assert evaluate(config)["AP"] == -1
    assert warned == [message]
    warned.clear()
    evaluate(dataclasses.replace(config, images=drawn.images, annotations=drawn.annotations))
    assert warned == []
