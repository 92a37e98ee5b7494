"""What a network finds in single images: a JSON file for all, and a picture for each."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mdnkernels.train.config.commands import PredictConfig
from mdnkernels.train.config.options import Orientation
from mdnkernels.train.config.rules import check_config
from mdnkernels.train.data.image_files import find_images
from mdnkernels.train.data.images import ImageError, exif_orientation, image_size, open_image, read_rgb, warp
from mdnkernels.train.data.transforms import Views
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.inference.evaluation import predict_batch, views_of
from mdnkernels.train.inference.preparation import autocast_context, prepare_for_inference
from mdnkernels.train.loop.network import check_inference, find_checkpoint, pick_device, restore_network
from mdnkernels.train.run.checkpoint import load_checkpoint
from mdnkernels.train.run.files import write_json, write_picture
from mdnkernels.train.tasks.base import Task
from mdnkernels.train.threads import use_free_cores

logger = logging.getLogger("mdnkernels.train")


def predict(config: PredictConfig) -> dict[str, Any]:
    """Find objects in the configured images; return what predictions.json then holds.

    {"orientation", "images": [{"file", "width", "height", "exif_orientation", "picture", "detections": [{"category_id",
    "bbox", "score", "component", "weight", "sigma", "category"}]}], "failed": [{"file", "reason"}], "not_done":
    [file]}: boxes are x, y, width, height in the image's pixels, weight the component's mixing weight (1 for the base),
    sigma the standard deviations of width and height. Width, height,
    boxes and picture are of the image in the configured orientation: for "exif" turned as the file's EXIF value
    "exif_orientation" says (1 to 8; 1 is not at all), for "stored" as the pixels lie in the file. An image that cannot
    be read is reported under "failed", and the others are done. Where something ends it early, Ctrl-C for one, what was
    found by then is written, and the rest is named under "not_done". For poses "keypoints" names the keypoints of each
    detection in their order. Raises ConfigError, CheckpointError.
    """
    check_config(config)
    paths = find_images(config.images)
    if config.output is not None:
        _check_free(config.output)
    device = pick_device(config.device)
    use_free_cores(device, config.threads)
    autocast = autocast_context(config.inference, device)
    checkpoint = load_checkpoint(find_checkpoint(config.run, config.checkpoint))
    model, task = restore_network(checkpoint)
    check_inference(model, task, config.inference)
    views = views_of(config.inference, checkpoint.config.data.input_size, model.divisor)
    model = prepare_for_inference(model, config.inference, device)
    output = _make_folder(config)

    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    names = FreeNames()
    result: dict[str, Any] = {"orientation": config.orientation, "images": done, "failed": failed}
    if task.skeleton is not None:
        result["keypoints"] = list(task.skeleton.names)
    try:
        for path in paths:
            try:
                with autocast:
                    entry = predict_image(model, task, path, views, config)
            except ImageError as error:
                logger.warning("skipped image %s: %s", path, error)
                failed.append({"file": str(path), "reason": str(error)})
            else:
                if config.pictures:
                    entry["picture"] = f"{names.take(path.stem)}.png"
                    picture = draw_entry(
                        path, entry["detections"], task, model.components, config.ellipse_score, config.orientation
                    )
                    write_picture(output / entry["picture"], picture)
                done.append(entry)
    finally:
        result["not_done"] = [str(path) for path in paths[len(done) + len(failed) :]]
        write_json(output / "predictions.json", result)
        if result["not_done"]:
            logger.warning("%s: %d of %d images are not done", output, len(result["not_done"]), len(paths))
    found = sum(len(entry["detections"]) for entry in done)
    print(f"{output}: {len(done)} images, {found} detections, {len(failed)} failed")
    return result


def _check_free(folder: Path) -> None:
    """Raise ConfigError where something is there that a prediction could write over."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"--output: {folder} is there already, and not an empty folder; what it holds is kept: give another name, "
            "or remove it"
        )


def _make_folder(config: PredictConfig) -> Path:
    """Make the folder to write to: the configured one, or a new one."""
    if config.output is not None:
        config.output.mkdir(parents=True, exist_ok=True)
        return config.output
    parent, names = config.run or Path("runs"), FreeNames()
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = parent / names.take("predictions")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def predict_image(model: Any, task: Task, path: Path, views: Views, config: PredictConfig) -> dict[str, Any]:
    """Return the entry of one image in predictions.json, its detections best first. Raises ImageError."""
    with open_image(path) as image:
        turn = exif_orientation(image)
        width, height = image_size(image, config.orientation)
    scales = []
    for place in views.of((width, height)):
        with open_image(path) as image:
            shown = warp(image, place.matrix, place.size, config.orientation)
        pixels = torch.from_numpy(shown.transpose(2, 0, 1).copy())
        scales.append({"image": pixels[None], "transform": torch.from_numpy(place.matrix)[None]})
    (found,) = predict_batch(model, scales, task, config.inference, next(model.parameters()).device)
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
    path: Path,
    results: Sequence[dict[str, Any]],
    task: Task,
    components: int,
    ellipse_score: float,
    orientation: Orientation,
) -> Image.Image:
    """Draw the task's `results` over the image of a file, in that orientation. Raises ImageError."""
    with open_image(path) as image:
        picture = read_rgb(image, orientation)
    return task.picture(picture, results, min_score=0, num_components=components, ellipse_score=ellipse_score)


class FreeNames:
    """Names that differ, also where a file system takes small and capital letters for the same."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, name: str) -> str:
        """Return the name, numbered where it was taken before."""
        free, number = name, 1
        while free.casefold() in self._taken:
            number += 1
            free = f"{name}-{number}"
        self._taken.add(free.casefold())
        return free
