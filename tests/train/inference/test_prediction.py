"""Prediction on image files: JSON in the image's own pixels, a picture for each, and broken files reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mdnkernels.train.config.commands import EvaluateConfig, PredictConfig
from mdnkernels.train.config.options import InferenceConfig
from mdnkernels.train.errors import CheckpointError, ConfigError
from mdnkernels.train.inference.evaluation import evaluate
from mdnkernels.train.inference.prediction import predict
from mdnkernels.train.loop.engine import fit
from tests.train.drawn_data import DataPaths, tiny_fit


@pytest.fixture(scope="module")
def run(drawn: DataPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tiny_fit(drawn, tmp_path_factory.mktemp("prediction") / "run", epochs=1))


def config(images: list[Path], run: Path | None, output: Path, **options: object) -> PredictConfig:
    return PredictConfig(images=tuple(images), run=run, output=output, device="cpu", **options)  # type: ignore[arg-type]


def test_every_image_gets_its_detections_and_a_picture(run: Path, drawn: DataPaths, tmp_path: Path) -> None:
    images = sorted(drawn.images.iterdir())[:2]
    result = predict(config(images, run, tmp_path, threshold=0.0))
    assert json.loads((tmp_path / "predictions.json").read_text()) == result
    assert result["failed"] == []
    for path, entry in zip(images, result["images"], strict=True):
        assert entry["file"] == str(path)
        with Image.open(path) as image:
            assert (entry["width"], entry["height"]) == image.size
        with Image.open(tmp_path / entry["picture"]) as picture:
            assert picture.width >= entry["width"]
        scores = [one["score"] for one in entry["detections"]]
        assert scores == sorted(scores, reverse=True)
        for one in entry["detections"]:
            assert (one["category_id"], one["category"]) in {(3, "plate"), (7, "bar"), (9, "ring")}
            x, y, width, height = one["bbox"]
            assert x >= 0
            assert y >= 0
            assert x + width <= entry["width"] + 1e-3
            assert y + height <= entry["height"] + 1e-3


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_where_nothing_is_found_the_threshold_is_named(
    run: Path, drawn: DataPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str], threshold: float
) -> None:
    predict(config([drawn.images / "001.jpg"], run, tmp_path, threshold=threshold, pictures=False))
    assert ("nothing has a score of 1 or more; --threshold" in capsys.readouterr().out) == (threshold == 1.0)


def test_prediction_and_evaluation_find_the_same(run: Path, drawn: DataPaths, tmp_path: Path) -> None:
    predicted = predict(config([drawn.images / "001.jpg"], run, tmp_path, threshold=0.0, pictures=False))
    evaluate(
        EvaluateConfig(
            run=run,
            images=drawn.images,
            annotations=drawn.annotations,
            limit=1,
            batch=1,
            workers=0,
            output=tmp_path / "evaluation",
            device="cpu",
        )
    )
    evaluated = json.loads((tmp_path / "evaluation" / "detections.json").read_text())
    found = predicted["images"][0]["detections"]
    assert len(found) == len(evaluated)
    for mine, theirs in zip(found, evaluated, strict=True):
        for name in ("category_id", "component"):
            assert mine[name] == theirs[name]
        for name in ("bbox", "score", "sigma"):
            assert mine[name] == pytest.approx(theirs[name], abs=1e-3)


def test_threshold_leaves_out_weak_boxes(run: Path, drawn: DataPaths, tmp_path: Path) -> None:
    image = drawn.images / "001.jpg"
    all_of_them = predict(config([image], run, tmp_path / "all", threshold=0.0))["images"][0]["detections"]
    scores = [one["score"] for one in all_of_them]
    middle = scores[len(scores) // 2]
    kept = predict(config([image], run, tmp_path / "kept", threshold=middle))["images"][0]["detections"]
    assert len(kept) == sum(score >= middle for score in scores)


def test_broken_images_are_reported_and_the_others_done(
    run: Path, drawn_copy: DataPaths, tmp_path: Path, warned: list[str]
) -> None:
    cut, empty, absent, fine = (drawn_copy.images / f"00{n}.jpg" for n in (1, 2, 3, 4))
    cut.write_bytes(cut.read_bytes()[:400])
    empty.write_bytes(b"")
    absent.unlink()
    result = predict(config([cut, empty, absent, fine], run, tmp_path / "out"))
    assert [entry["file"] for entry in result["images"]] == [str(fine)]
    assert [entry["file"] for entry in result["failed"]] == [str(cut), str(empty), str(absent)]
    assert len(warned) == 3


def test_images_of_one_name_get_pictures_of_their_own(run: Path, drawn: DataPaths, tmp_path: Path) -> None:
    other = tmp_path / "other" / "001.jpg"
    other.parent.mkdir()
    shutil.copy(drawn.images / "002.jpg", other)
    result = predict(config([drawn.images / "001.jpg", other], run, tmp_path / "out"))
    assert [entry["picture"] for entry in result["images"]] == ["001.png", "001-2.png"]


def test_names_that_differ_in_capitals_or_by_a_number_keep_apart(run: Path, drawn: DataPaths, tmp_path: Path) -> None:
    """Some file systems take Road.png for road.png."""
    files = [tmp_path / folder / name for folder, name in (("a", "road.jpg"), ("b", "Road.jpg"), ("c", "road-2.jpg"))]
    for file in files:
        file.parent.mkdir()
        shutil.copy(drawn.images / "001.jpg", file)
    result = predict(config(files, run, tmp_path / "out"))
    names = [entry["picture"].lower() for entry in result["images"]]
    assert len(set(names)) == 3
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_a_second_run_keeps_what_the_first_wrote(run: Path, drawn: DataPaths, tmp_path: Path) -> None:
    first, second = drawn.images / "001.jpg", drawn.images / "002.jpg"
    predict(config([first], run, tmp_path / "out"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ConfigError, match=r"--output: .*out is there already.*give another name, or remove it"):
        predict(config([second], run, tmp_path / "out"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_the_input_is_never_written_over(run: Path, drawn: DataPaths, tmp_path: Path) -> None:
    with Image.open(drawn.images / "001.jpg") as image:
        image.save(tmp_path / "mine.png")
    with pytest.raises(ConfigError, match="--output"):
        predict(config([tmp_path / "mine.png"], run, tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--output"):
        predict(config([tmp_path / "mine.png"], run, tmp_path / "file"))


def test_an_interruption_keeps_what_is_done_and_names_the_rest(
    run: Path, drawn: DataPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(drawn.images.iterdir())[:4]
    save = Image.Image.save

    def interrupted(self: Image.Image, file: Any, *arguments: Any, **options: Any) -> None:
        if len(list((tmp_path / "out").glob("*.png"))) == 2:
            file.write(b"half a pict")
            raise KeyboardInterrupt
        save(self, file, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(config(paths, run, tmp_path / "out"))
    result = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["file"] for entry in result["images"]] == [str(path) for path in paths[:2]]
    assert result["not_done"] == [str(path) for path in paths[2:]]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["001.png", "002.png", "predictions.json"]
    for name in ("001.png", "002.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            picture.load()


def test_checkpoint_alone_is_enough(run: Path, drawn: DataPaths, tmp_path: Path) -> None:
    checkpoint = tmp_path / "moved.pt"
    shutil.copy(run / "checkpoints" / "last.pt", checkpoint)
    images = [drawn.images / "001.jpg"]
    alone = predict(config(images, None, tmp_path / "a", checkpoint=checkpoint, threshold=0.0))
    assert alone["images"] == predict(config(images, run, tmp_path / "b", threshold=0.0))["images"]


def test_what_cannot_be_used_is_named(run: Path, drawn: DataPaths, tmp_path: Path) -> None:
    image = drawn.images / "001.jpg"
    with pytest.raises(ConfigError, match="--run or --checkpoint"):
        predict(config([image], None, tmp_path))
    with pytest.raises(ConfigError, match="--component: 5"):
        predict(config([image], run, tmp_path, inference=InferenceConfig(component=5)))
    with pytest.raises(CheckpointError, match=r"001\.jpg: is not a readable checkpoint"):
        predict(config([image], None, tmp_path, checkpoint=image))
