"""What a network finds in single images: a JSON file for all, and a picture for each."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mdnkernels.train.config.commands import PredictConfig
from mdnkernels.train.config.serialisation import settled
from mdnkernels.train.data.image_files import find_images
from mdnkernels.train.errors import ConfigError, UnreadableImageError
from mdnkernels.train.inference.found import Prediction
from mdnkernels.train.inference.predictor import Predictor
from mdnkernels.train.loop.network import find_checkpoint, pick_device, pick_precision
from mdnkernels.train.run.files import write_json, write_picture
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
    config = settled(config)
    paths = find_images(config.images)
    if config.output is not None:
        _check_free(config.output)
    device = pick_device(config.device)
    pick_precision(config.inference.precision, device)  # a mistake is told before a large file is read
    use_free_cores(device, config.threads)
    if config.run is None and config.checkpoint is None:
        raise ConfigError("--run or --checkpoint: one of them is needed")
    predictor = Predictor.from_checkpoint(
        find_checkpoint(config.run, config.checkpoint),
        threshold=config.threshold,
        orientation=config.orientation,
        device=config.device,
        ellipse_score=config.ellipse_score,
        **vars(config.inference),
    )
    output = _make_folder(config)

    done: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    names = FreeNames()
    result: dict[str, Any] = {"orientation": config.orientation, "images": done, "failed": failed}
    if predictor.task.skeleton is not None:
        result["keypoints"] = list(predictor.task.skeleton.names)
    try:
        for path in paths:
            try:
                found = predictor(path)
            except UnreadableImageError as error:
                logger.warning("skipped image %s", error)
                failed.append({"file": str(path), "reason": error.reason})
            else:
                entry = _entry(path, found)
                if config.pictures:
                    entry["picture"] = f"{names.take(path.stem)}.png"
                    write_picture(output / entry["picture"], found.draw())
                done.append(entry)
    finally:
        result["not_done"] = [str(path) for path in paths[len(done) + len(failed) :]]
        write_json(output / "predictions.json", result)
        if result["not_done"]:
            logger.warning("%s: %d of %d images are not done", output, len(result["not_done"]), len(paths))
    count = sum(len(entry["detections"]) for entry in done)
    print(f"{output}: {len(done)} images, {count} detections, {len(failed)} failed")
    if done and not count:
        print(f"nothing has a score of {config.threshold:g} or more; --threshold takes a lower one")
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


def _entry(path: Path, found: Prediction) -> dict[str, Any]:
    """Return the entry of one image in predictions.json, its detections best first."""
    return {
        "file": str(path),
        "width": found.size[0],
        "height": found.size[1],
        "exif_orientation": found.image.turn,
        "picture": None,
        "detections": [{**entry, "category": name} for entry, name in zip(found.to_coco(), found.names, strict=True)],
    }


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
