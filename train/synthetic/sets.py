"""Synthetic sets in COCO format: each picture from a seed of its own, a split's annotations last."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mdnkernels.train.run.files import write_text
from mdnkernels.train.synthetic.scenery import FINE, Floats, Placed, SceneLimits, coarse

_MIN_IMAGE_SIZE = 32
_MAX_IMAGES = 1_000_000

Config = TypeVar("Config", bound=SceneLimits)


class SyntheticPaths(NamedTuple):
    """Where a synthetic set has its files."""

    train_images: Path
    train_annotations: Path
    val_images: Path
    val_annotations: Path


@dataclass(frozen=True)
class Scene:
    """One picture of S x S pixels and what is true of its N objects, front-most object first."""

    image: NDArray[np.uint8]
    """(S, S, 3) RGB."""
    boxes: NDArray[np.float64]
    """(N, 4) x1 y1 x2 y2 in pixels, tight around the visible part."""
    areas: NDArray[np.float64]
    """(N,) visible area in square pixels."""
    coverage: Floats
    """(N, S, S) share of each pixel that shows the object; over N it sums to at most 1."""

    def annotate(self, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """Return the objects, which are of these categories, as COCO annotates boxes."""
        return [
            {"category_id": category_id, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "iscrowd": 0}
            for category_id, (x1, y1, x2, y2), area in zip(
                category_ids, self.boxes.tolist(), self.areas.tolist(), strict=True
            )
        ]


def describe_placed(pixels: Floats, placed: Sequence[Placed]) -> dict[str, Any]:
    """Return the fields of a `Scene`: of the picture (3, S, S) in [0, 1], and of what is seen in it."""
    coverage = np.zeros((len(placed), *pixels.shape[1:]), dtype=np.float32)
    for share, item in zip(coverage, placed, strict=True):
        share[item.place.there] = coarse(item.seen)
    return {
        "image": np.ascontiguousarray((pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)),
        "boxes": np.array([item.box for item in placed], dtype=np.float64).reshape(-1, 4),
        "areas": np.array([np.count_nonzero(item.seen) / FINE**2 for item in placed], dtype=np.float64),
        "coverage": coverage,
    }


@dataclass(frozen=True)
class SyntheticSet(Generic[Config]):
    """A kind of synthetic set: what its pictures show and what is said of them. All else is the same for all kinds."""

    kind: str
    """COCO's first word of the annotation files: "instances" or "person_keypoints"."""
    description: str
    categories: list[dict[str, Any]]
    scene: Config
    """What the pictures hold by default."""
    draw: Callable[[np.random.Generator, int, Config], tuple[NDArray[np.uint8], list[dict[str, Any]]]]
    """Draws one picture of so many pixels a side, (S, S, 3) RGB, with its annotations; of their ids, "category_id"."""

    def paths(self, root: Path) -> SyntheticPaths:
        """Return where `write` puts the files of a set under `root`."""
        root = Path(root)
        annotations = [root / "annotations" / f"{self.kind}_{split}.json" for split in ("train", "val")]
        return SyntheticPaths(root / "train", annotations[0], root / "val", annotations[1])

    def write(
        self,
        root: Path,
        *,
        train: int,
        val: int,
        image_size: int = 160,
        seed: int = 0,
        scene: Config | None = None,
    ) -> SyntheticPaths:
        """Write `train/`, `val/` and `annotations/{kind}_{train,val}.json` under `root`.

        The box rule is COCO's: a box is tight around what is *visible* of an object, after others have hidden part of
        it and the border has cut it; `area` is the area of that visible part. An object of which less than
        `scene.min_visible` would be seen is neither painted nor annotated.

        Picture i of a split is drawn from `np.random.default_rng([seed, split, i])` alone, split 0 for train and 1 for
        val: the same seed gives the same bytes (under the same Pillow and NumPy), and a smaller set starts a larger
        one. A split's annotations are removed first and written last, in one step: where they exist, every picture
        does.

        Args:
            root: folder to write to; made if missing. Files of the same names are replaced.
            train: number of pictures to train on.
            val: number of pictures to validate on.
            image_size: side S of the square pictures in pixels, at least 32.
            seed: non-negative.
            scene: what the pictures hold; None for the set's own.

        Returns:
            The two image folders and the two annotation files.

        Raises:
            ValueError: a count, the seed or the image size is out of range; nothing is written.
            OSError: `root` cannot be written.
        """
        if seed < 0:
            raise ValueError(f"seed is {seed}: need a non-negative integer")
        for name, count in (("train", train), ("val", val)):
            if not 0 <= count < _MAX_IMAGES:
                raise ValueError(f"{name} is {count}: need a count of pictures from 0 to {_MAX_IMAGES - 1}")
        check_image_size(image_size)
        scene = self.scene if scene is None else scene
        paths = self.paths(root)
        self._write_split(paths.train_images, paths.train_annotations, scene, 0, train, image_size, seed)
        self._write_split(paths.val_images, paths.val_annotations, scene, 1, val, image_size, seed)
        return paths

    def _write_split(
        self, folder: Path, annotations: Path, scene: Config, split: int, count: int, image_size: int, seed: int
    ) -> None:
        """Write one split's pictures and then, in one step, its annotations."""
        folder.mkdir(parents=True, exist_ok=True)
        annotations.parent.mkdir(parents=True, exist_ok=True)
        annotations.unlink(missing_ok=True)
        images: list[dict[str, Any]] = []
        objects: list[dict[str, Any]] = []
        for i in range(count):
            picture, truth = self.draw(np.random.default_rng([seed, split, i]), image_size, scene)
            # Ids differ between the splits, so a picture cannot be taken for one of the other split unnoticed.
            image_id = split * _MAX_IMAGES + i + 1
            file_name = f"{image_id:012d}.jpg"
            Image.fromarray(picture).save(folder / file_name, quality=scene.jpeg_quality)
            images.append({"id": image_id, "file_name": file_name, "width": image_size, "height": image_size})
            for annotation in truth:
                # From 1: pycocotools takes 0 for "no match".
                objects.append({"id": len(objects) + 1, "image_id": image_id, **annotation})
        whole = {
            "info": {"description": self.description, "seed": seed, "split": split, "scene": asdict(scene)},
            "licenses": [],
            "images": images,
            "annotations": objects,
            "categories": self.categories,
        }
        write_text(annotations, json.dumps(whole))


def check_image_size(image_size: int) -> None:
    """Raise ValueError for a side in pixels that is too small."""
    if image_size < _MIN_IMAGE_SIZE:
        raise ValueError(f"image_size is {image_size}: need at least {_MIN_IMAGE_SIZE} pixels")
