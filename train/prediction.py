"""Detections in single images: a JSON file for all, and a picture for each."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from train.checkpoint import load_checkpoint
from train.config import Orientation, PredictConfig, check_config
from train.evaluation import look, views_of
from train.files import write_json
from train.images import ImageError, exif_orientation, image_size, open_image, read_rgb, warp
from train.network import check_inference, find_checkpoint, pick_device, restore_network
from train.tasks import Task
from train.transforms import Views

logger = logging.getLogger("train")


def predict(config: PredictConfig) -> dict[str, Any]:
    """Detects objects in the configured images; returns what predictions.json then holds.

    {"orientation", "images": [{"file", "width", "height", "exif_orientation", "picture", "detections": [{"category_id",
    "bbox", "score", "component", "sigma", "category"}]}], "failed": [{"file", "reason"}]}: boxes are x, y, width,
    height in the image's pixels, sigma the standard deviations of width and height. Width, height, boxes and picture
    are of the image in the configured orientation: for "exif" turned as the file's EXIF value "exif_orientation" says
    (1 to 8; 1 is not at all), for "stored" as the pixels lie in the file. An image that cannot be read is reported
    under "failed", and the others are done. Raises ConfigError, CheckpointError.
    """
    check_config(config)
    checkpoint = load_checkpoint(find_checkpoint(config.run, config.checkpoint))
    model, task = restore_network(checkpoint)
    check_inference(model, config.inference)
    views = views_of(config.inference, checkpoint.config.data.input_size, model.divisor)
    model = model.to(pick_device(config.device))
    config.output.mkdir(parents=True, exist_ok=True)

    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    taken: set[str] = set()
    for path in config.images:
        try:
            entry = predict_image(model, task, path, views, config)
        except ImageError as error:
            logger.warning("skipped image %s: %s", path, error)
            failed.append({"file": str(path), "reason": str(error)})
            continue
        if config.pictures:
            entry["picture"] = f"{_free_name(path.stem, taken)}.png"
            picture = draw_entry(path, entry["detections"], task, model.components, config.orientation)
            picture.save(config.output / entry["picture"])
        done.append(entry)
    result = {"orientation": config.orientation, "images": done, "failed": failed}
    write_json(config.output / "predictions.json", result)
    return result


def predict_image(model: Any, task: Task, path: Path, views: Views, config: PredictConfig) -> dict[str, Any]:
    """The entry of one image in predictions.json, best first. Raises ImageError."""
    with open_image(path) as image:
        turn = exif_orientation(image)
        width, height = image_size(image, config.orientation)
    scales = []
    for place in views.of((width, height)):
        with open_image(path) as image:
            shown = warp(image, place.matrix, place.size, config.orientation)
        pixels = torch.from_numpy(shown.transpose(2, 0, 1).copy())
        scales.append({"image": pixels[None], "transform": torch.from_numpy(place.matrix)[None]})
    found = look(model, scales, task, config.inference, next(model.parameters()).device)
    names = {category.id: category.name for category in task.categories}
    return {
        "file": str(path),
        "width": width,
        "height": height,
        "exif_orientation": turn,
        "picture": None,
        "detections": [
            {**entry, "category": names[entry["category_id"]]}
            for entry in task.results(found._make(values[0] for values in found), (width, height))
            if entry["score"] >= config.threshold
        ],
    }


def draw_entry(
    path: Path, results: Sequence[dict[str, Any]], task: Task, components: int, orientation: Orientation
) -> Image.Image:
    """A picture of the image file, in that orientation, with the task's `results` over it. Raises ImageError."""
    with open_image(path) as image:
        return task.picture(read_rgb(image, orientation), results, min_score=0, num_components=components)


def _free_name(stem: str, taken: set[str]) -> str:
    """The stem, numbered where another image of the same name came before."""
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name)
    return name
