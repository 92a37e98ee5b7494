"""Writing a synthetic set, of boxes or of poses: reproducible, whole or not there, and bad arguments named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools.coco import COCO

from mdnkernels.train.synthetic.coloured import COLOURED, ColouredSceneConfig
from mdnkernels.train.synthetic.detection import SHAPES, DetectionSceneConfig
from mdnkernels.train.synthetic.poses import FIGURES, PoseSceneConfig
from mdnkernels.train.synthetic.sets import SyntheticPaths

Write = Callable[..., SyntheticPaths]
SETS = [
    pytest.param(SHAPES.write, DetectionSceneConfig, id="detection"),
    pytest.param(COLOURED.write, ColouredSceneConfig, id="coloured"),
    pytest.param(FIGURES.write, PoseSceneConfig, id="pose"),
]
all_sets = pytest.mark.parametrize(("write", "scene"), SETS)


def _bytes(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@all_sets
def test_same_seed_gives_the_same_bytes_and_another_seed_others(write: Write, scene: Any, tmp_path: Path) -> None:
    for name, seed in (("first", 5), ("second", 5), ("third", 6)):
        write(tmp_path / name, train=4, val=2, image_size=96, seed=seed)
    first, second, third = (_bytes(tmp_path / name) for name in ("first", "second", "third"))
    assert first == second
    assert first.keys() == third.keys()
    assert all(first[name] != third[name] for name in first)


@all_sets
def test_a_smaller_set_is_the_start_of_a_larger_one(write: Write, scene: Any, tmp_path: Path) -> None:
    paths = [
        write(tmp_path / name, train=train, val=val, image_size=64, seed=1)
        for name, train, val in (("small", 2, 1), ("large", 4, 2))
    ]
    small, large = _bytes(tmp_path / "small"), _bytes(tmp_path / "large")
    pictures = [name for name in small if name.endswith(".jpg")]
    assert len(pictures) == 3
    assert all(small[name] == large[name] for name in pictures)
    few, many = (json.loads(one.train_annotations.read_text())["annotations"] for one in paths)
    assert few == many[: len(few)]


@all_sets
def test_a_split_that_is_being_written_has_no_annotations(
    write: Write, scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = write(tmp_path, train=2, val=1, image_size=64)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path, train=2, val=1, image_size=64)
    assert not finished.train_annotations.exists()


@all_sets
def test_an_empty_picture_and_an_empty_split_are_allowed(write: Write, scene: Any, tmp_path: Path) -> None:
    paths = write(tmp_path, train=1, val=0, image_size=64, scene=scene(min_objects=0, max_objects=0))
    assert COCO(str(paths.train_annotations)).getAnnIds() == []
    assert COCO(str(paths.val_annotations)).getImgIds() == []


@all_sets
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": -1}, "train is -1"),
        ({"val": 1_000_000}, "val is 1000000"),
        ({"seed": -2}, "seed is -2"),
        ({"image_size": 16}, "image_size is 16"),
    ],
)
def test_bad_arguments_are_named(
    write: Write, scene: Any, tmp_path: Path, arguments: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path, **{"train": 1, "val": 1, **arguments})
    assert not list(tmp_path.iterdir())
