"""Writing a synthetic set in COCO format: each picture from a seed of its own, a split's annotations last."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from train.run.files import write_text
from train.synthetic.scenery import SceneLimits

_MIN_IMAGE_SIZE = 32
_MAX_IMAGES = 1_000_000


class SyntheticPaths(NamedTuple):
    """Where a synthetic set has its files."""

    train_images: Path
    train_annotations: Path
    val_images: Path
    val_annotations: Path


class SetContent(NamedTuple):
    """What a kind of synthetic set holds."""

    kind: str
    """COCO's first word of the annotation files: "instances" or "person_keypoints"."""
    description: str
    categories: list[dict[str, Any]]
    scene: SceneLimits
    """The dataclass that configures the pictures; it goes into the files."""
    draw: Callable[[np.random.Generator], tuple[NDArray[np.uint8], list[dict[str, Any]]]]
    """One picture, (S, S, 3) RGB, and its annotations; of their ids only "category_id" is given."""


def write_set(root: Path, content: SetContent, *, train: int, val: int, image_size: int, seed: int) -> SyntheticPaths:
    """Write `train/`, `val/` and `annotations/{kind}_{train,val}.json` under `root`.

    Picture i of a split is drawn from `np.random.default_rng([seed, split, i])` alone, split 0 for train and 1 for val:
    the same seed gives the same bytes (under the same Pillow and NumPy), and a smaller set starts a larger one.
    A split's annotations are removed first and written last, in one step: where they exist, every picture does.
    ValueError for a count, a seed or an image size out of range, before anything is written.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}: need a non-negative integer")
    for name, count in (("train", train), ("val", val)):
        if not 0 <= count < _MAX_IMAGES:
            raise ValueError(f"{name} is {count}: need a count of pictures from 0 to {_MAX_IMAGES - 1}")
    check_image_size(image_size)
    paths: list[Path] = []
    for split, (name, count) in enumerate((("train", train), ("val", val))):
        images = Path(root) / name
        annotations = Path(root) / "annotations" / f"{content.kind}_{name}.json"
        _write_split(images, annotations, content, split, count, image_size, seed)
        paths += [images, annotations]
    return SyntheticPaths(*paths)


def check_image_size(image_size: int) -> None:
    """Raise ValueError for a side in pixels that is too small."""
    if image_size < _MIN_IMAGE_SIZE:
        raise ValueError(f"image_size is {image_size}: need at least {_MIN_IMAGE_SIZE} pixels")


def _write_split(
    folder: Path, annotations: Path, content: SetContent, split: int, count: int, image_size: int, seed: int
) -> None:
    """Write one split's pictures and then, in one step, its annotations."""
    folder.mkdir(parents=True, exist_ok=True)
    annotations.parent.mkdir(parents=True, exist_ok=True)
    annotations.unlink(missing_ok=True)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for i in range(count):
        picture, truth = content.draw(np.random.default_rng([seed, split, i]))
        # Ids differ between the splits, so a picture cannot be taken for one of the other split unnoticed.
        image_id = split * _MAX_IMAGES + i + 1
        file_name = f"{image_id:012d}.jpg"
        Image.fromarray(picture).save(folder / file_name, quality=content.scene.jpeg_quality)
        images.append({"id": image_id, "file_name": file_name, "width": image_size, "height": image_size})
        for annotation in truth:
            # From 1: pycocotools takes 0 for "no match".
            objects.append({"id": len(objects) + 1, "image_id": image_id, **annotation})
    whole = {
        "info": {"description": content.description, "seed": seed, "split": split, "scene": asdict(content.scene)},
        "licenses": [],
        "images": images,
        "annotations": objects,
        "categories": content.categories,
    }
    write_text(annotations, json.dumps(whole))
