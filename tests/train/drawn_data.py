"""A small drawn data set for tests, and configurations that train on it in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.config.options import AugmentConfig, DataConfig, ModelConfig, OptimizerConfig


class DataPaths(NamedTuple):
    """A COCO-format data set on the disk."""

    images: Path
    annotations: Path


# Where a subprocess finds the packages of the checkout.
ROOT = Path(__file__).parents[2]
CATEGORIES = [{"id": 9, "name": "ring"}, {"id": 3, "name": "plate"}, {"id": 7, "name": "bar"}]


def draw_data_set(folder: Path, count: int = 8, side: int = 80, seed: int = 0) -> DataPaths:
    """Write `count` noisy images with one to three filled rectangles each, of three categories with scattered ids."""
    rng = np.random.default_rng(seed)
    images_folder = folder / "images"
    images_folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        width, height = side, side - 8 * (number % 3)
        image = Image.fromarray(rng.integers(0, 60, (height, width, 3), dtype=np.uint8))
        for _ in range(int(rng.integers(1, 4))):
            kind = int(rng.integers(3))
            w, h = rng.integers(12, 36, 2)
            x, y = rng.integers(0, (width - w, height - h))
            ImageDraw.Draw(image).rectangle((x, y, x + w - 1, y + h - 1), fill=("red", "green", "blue")[kind])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": CATEGORIES[kind]["id"],
                    "bbox": [int(x), int(y), int(w), int(h)],
                    "area": int(w * h),
                    "iscrowd": 0,
                }
            )
        name = f"{number:03d}.jpg"
        image.save(images_folder / name, quality=95)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    return DataPaths(images_folder, path)


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Apply `change` to the content of a JSON file."""
    root = json.loads(path.read_text())
    change(root)
    path.write_text(json.dumps(root))


def tiny_fit(data: DataPaths, run: Path, **overrides: Any) -> FitConfig:
    """Return the configuration of a run of a few seconds. Any field of any part can be overridden by its name."""
    values: dict[str, Any] = {
        "input_size": 64,
        "workers": 0,
        "epochs": 2,
        "batch": 4,
        "log_every": 1,
        "device": "cpu",
        "drop_epochs": None if overrides.get("epochs") == 1 else (1,),
        "components": 2,
        **overrides,
    }

    def take(kind: type) -> dict[str, Any]:
        return {name: values.pop(name) for name in list(values) if name in kind.__dataclass_fields__}

    augment, model, optimizer = (kind(**take(kind)) for kind in (AugmentConfig, ModelConfig, OptimizerConfig))
    paths = {"train_images": data.images, "train_annotations": data.annotations}
    data_config = DataConfig(**{**paths, **take(DataConfig)})
    return FitConfig(run=run, data=data_config, augment=augment, model=model, optimizer=optimizer, **values)
