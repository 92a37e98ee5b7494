"""EXIF orientation: whoever applies it sees what an upright file shows, in training, evaluation and prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from mdnkernels.train.config.commands import EvaluateConfig, PredictConfig
from mdnkernels.train.config.options import AugmentConfig, InferenceConfig
from mdnkernels.train.data.sets import BadSample, EvaluationSet, Sample, TrainingSet, open_annotations
from mdnkernels.train.data.transforms import Views
from mdnkernels.train.inference.evaluation import evaluate
from mdnkernels.train.inference.prediction import predict
from mdnkernels.train.loop.engine import fit
from tests.train.drawn_data import DataPaths, draw_data_set, edit_json, tiny_fit

# What turns an upright picture into the one that a file of each EXIF orientation stores.
TO_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class Sets(NamedTuple):
    """Three copies of the same pictures and annotations, in PNG files."""

    upright: DataPaths
    turned: DataPaths
    """Stored turned, image i by EXIF orientation i, 1 to 8."""
    bare: DataPaths
    """Stored as in `turned`, without EXIF."""


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    drawn = draw_data_set(tmp_path_factory.mktemp("turned"))
    edit_json(drawn.annotations, lambda root: [one.update(file_name=f"{one['id']}.png") for one in root["images"]])
    folders = [drawn.images.parent / name for name in Sets._fields]
    for folder in folders:
        folder.mkdir()
    for orientation in range(1, 9):
        with Image.open(drawn.images / f"{orientation:03d}.jpg") as file:
            image = file.convert("RGB")
        stored = image.transpose(TO_STORED[orientation]) if orientation > 1 else image
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(folders[0] / f"{orientation}.png")
        stored.save(folders[1] / f"{orientation}.png", exif=exif)
        stored.save(folders[2] / f"{orientation}.png")
    return Sets(*(DataPaths(folder, drawn.annotations) for folder in folders))


@pytest.fixture(scope="module")
def run(sets: Sets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    val = {"val_images": sets.turned.images, "val_annotations": sets.turned.annotations}
    return fit(tiny_fit(sets.turned, tmp_path_factory.mktemp("run") / "run", epochs=1, orientation="exif", **val))


def assert_same(sample: Sample | BadSample, expected: Sample | BadSample) -> None:
    assert isinstance(sample, Sample)
    assert isinstance(expected, Sample)
    for name, value in expected._asdict().items():
        np.testing.assert_array_equal(getattr(sample, name), value, err_msg=name)


def test_samples_of_turned_files_are_those_of_upright_ones(sets: Sets) -> None:
    annotations = open_annotations(sets.upright.annotations)
    augment = AugmentConfig(rotate=0.3)
    upright = TrainingSet(annotations, sets.upright.images, 64, augment=augment)
    turned = TrainingSet(annotations, sets.turned.images, 64, augment=augment, orientation="exif")
    views = Views(64, 16, "original", (1, 2))
    whole = EvaluationSet(annotations, sets.upright.images, views)
    whole_turned = EvaluationSet(annotations, sets.turned.images, views, orientation="exif")
    for index in range(8):
        for epoch in range(3):
            assert_same(turned[epoch, index], upright[epoch, index])
        for mine, expected in zip(whole_turned[index], whole[index], strict=True):
            assert_same(mine, expected)


@pytest.mark.parametrize("orientation", ["stored", "exif"])
def test_other_size_than_listed_names_the_orientation_that_has_it(sets: Sets, orientation: str, tmp_path: Path) -> None:
    """The list holds the sizes of the other orientation than the one that is asked for."""
    annotations = open_annotations(sets.upright.annotations)
    if orientation == "exif":
        path = tmp_path / "stored.json"
        path.write_text(sets.upright.annotations.read_text())

        def swap(root: dict) -> None:
            for one in root["images"]:
                if one["id"] >= 5:
                    one["width"], one["height"] = one["height"], one["width"]

        edit_json(path, swap)
        annotations = open_annotations(path)
    dataset = EvaluationSet(annotations, sets.turned.images, Views(64, 16), orientation=orientation)  # type: ignore[arg-type]
    bad = [dataset.annotations[i].id for i in range(8) if isinstance(dataset[i], BadSample)]
    assert bad == [5, 7, 8]  # image 6 is square
    reason = dataset[4].reason  # type: ignore[union-attr]
    taken, other = ("as stored", "exif") if orientation == "stored" else ("turned by its EXIF orientation", "stored")
    assert taken in reason
    assert f"--orientation {other} takes it so" in reason
    bare = EvaluationSet(annotations, sets.bare.images, Views(64, 16))
    if orientation == "stored":
        assert "--orientation" not in bare[4].reason  # type: ignore[union-attr]


def detections(folder: Path) -> list[dict]:
    return json.loads((folder / "detections.json").read_text())


def test_evaluation_takes_images_as_the_run_was_trained(run: Path, sets: Sets, tmp_path: Path) -> None:
    assert json.loads((run / "config.json").read_text())["data"]["orientation"] == "exif"
    assert json.loads((run / "evaluation" / "metrics.json").read_text())["skipped_images"] == 0

    def found(name: str, **options: object) -> list[dict]:
        evaluate(EvaluateConfig(run=run, workers=0, device="cpu", output=tmp_path / name, **options))  # type: ignore[arg-type]
        return detections(tmp_path / name)

    own = found("own")
    assert own == found("upright", images=sets.upright.images, annotations=sets.upright.annotations)
    found("stored", orientation="stored")
    assert json.loads((tmp_path / "stored" / "metrics.json").read_text())["skipped_images"] == 3


def test_prediction_boxes_and_picture_are_of_the_same_image(run: Path, sets: Sets, tmp_path: Path) -> None:
    def predicted(name: str, images: Path, **options: object) -> dict:
        files = tuple(images / f"{i}.png" for i in range(1, 9))
        few = InferenceConfig(detections=4)
        given = {"output": tmp_path / name, "threshold": 0.0, "device": "cpu", "inference": few, **options}
        result = predict(PredictConfig(images=files, run=run, **given))  # type: ignore[arg-type]
        assert json.loads((tmp_path / name / "predictions.json").read_text()) == result
        return result

    upright = predicted("upright", sets.upright.images)
    turned = predicted("turned", sets.turned.images)
    stored = predicted("stored", sets.turned.images, orientation="stored")
    bare = predicted("bare", sets.bare.images)
    assert [result["orientation"] for result in (turned, stored)] == ["exif", "stored"]
    for result in (turned, stored):
        assert [entry["exif_orientation"] for entry in result["images"]] == list(range(1, 9))
    for result, name, expected, folder in ((turned, "turned", upright, "upright"), (stored, "stored", bare, "bare")):
        for entry, other in zip(result["images"], expected["images"], strict=True):
            assert entry["detections"]
            for field in ("width", "height", "detections"):
                assert entry[field] == other[field]
            paths = (tmp_path / name / entry["picture"], tmp_path / folder / other["picture"])
            with Image.open(paths[0]) as picture, Image.open(paths[1]) as wanted:
                np.testing.assert_array_equal(np.asarray(picture), np.asarray(wanted))
