"""What a data set holds and what is wrong with it, before anybody trains on it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from train.coco import CocoAnnotations
from train.config import CheckDataConfig, check_config
from train.data import CocoImages, Sample, TrainingSet, collate, open_annotations
from train.errors import ConfigError
from train.files import write_json, write_picture
from train.images import open_image
from train.pictures import grid
from train.tasks import Task, make_task, skeleton_of

# COCO's limits of small and medium, areas in square pixels.
AREAS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}
STRIDE = 4
LISTED = 20  # bad entries that are printed; check.json has all


def check_data(config: CheckDataConfig) -> dict[str, Any]:
    """Writes check.json and samples.png to the configured folder and returns what check.json holds.

    {"images", "images_without_objects", "objects", "crowds", "objects_per_image", "sides", "areas", "categories",
    "keypoints", "bad_annotations", "bad_images"}. Raises ConfigError, and DatasetError where the list as a whole cannot
    be used.
    """
    check_config(config)
    if config.input_size % STRIDE:
        raise ConfigError(f"--input-size: {config.input_size} is no multiple of {STRIDE}, the pixels of an output cell")
    skeleton = skeleton_of(config.task)
    annotations = open_annotations(config.annotations, skeleton).first(config.limit)
    task = make_task(config.task, annotations.categories)
    images = CocoImages(annotations, config.images, skeleton)
    report = describe(annotations)
    report["bad_images"] = _bad_images(images)
    config.output.mkdir(parents=True, exist_ok=True)
    write_json(config.output / "check.json", report)
    print(text_of(report), flush=True)
    picture = _sample_picture(config, annotations, task)
    if picture is not None:
        write_picture(config.output / "samples.png", picture)
        print(f"{config.output / 'samples.png'}: augmented samples, each beside its heatmap targets")
    return report


def describe(annotations: CocoAnnotations) -> dict[str, Any]:
    """The numbers of a list. Sides are in pixels; areas are the annotations' own."""
    real = ~annotations.crowd
    sides = annotations.boxes[real, 2:] - annotations.boxes[real, :2]
    counts = np.diff(annotations.starts)
    labels = annotations.labels[real]
    report: dict[str, Any] = {
        "images": len(annotations),
        "images_without_objects": int((counts == 0).sum()),
        "objects": int(real.sum()),
        "crowds": int(annotations.crowd.sum()),
        "objects_per_image": _spread(counts),
        "sides": {"width": _spread(sides[:, 0]), "height": _spread(sides[:, 1])},
        "areas": {
            name: int(((annotations.areas[real] >= low) & (annotations.areas[real] < high)).sum())
            for name, (low, high) in AREAS.items()
        },
        "categories": [
            {"id": category.id, "name": category.name, "objects": int((labels == index).sum())}
            for index, category in enumerate(annotations.categories)
        ],
        "bad_annotations": list(annotations.skipped),
    }
    if annotations.keypoints.shape[1]:
        visibility = annotations.keypoints[real, :, 2]
        report["keypoints"] = {
            "people_without": int((visibility == 0).all(1).sum()),
            "visible": int((visibility == 2).sum()),
            "hidden": int((visibility == 1).sum()),
            "not_labelled": int((visibility == 0).sum()),
        }
    return report


def _spread(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    numbers = (values.min(), np.median(values), values.mean(), values.max())
    return {name: round(float(value), 2) for name, value in zip(("min", "median", "mean", "max"), numbers, strict=True)}


def _bad_images(images: CocoImages) -> list[dict[str, Any]]:
    """The images that are missing, cannot be decoded to the end, or have another size than listed."""

    def problem(index: int) -> dict[str, Any] | None:
        entry = images.annotations[index]
        path = images.images / entry.file_name
        try:
            with open_image(path) as image:
                images.check_size(entry, image.size)
                image.load()
        except Exception as error:  # a broken file makes Pillow's many decoders raise almost anything
            return {"id": entry.id, "file": str(path), "reason": str(error) or type(error).__name__}
        return None

    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
        return [found for found in pool.map(problem, range(len(images))) if found is not None]


def text_of(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"{report['images']} images, {report['images_without_objects']} of them without objects",
        f"{report['objects']} objects and {report['crowds']} crowds"
        f"; of an image: {_words(report['objects_per_image'])}",
        f"width in pixels: {_words(report['sides']['width'])}; height: {_words(report['sides']['height'])}",
        "by COCO's areas: " + ", ".join(f"{count} {name}" for name, count in report["areas"].items()),
        "categories: " + ", ".join(f"{one['name']} (id {one['id']}) {one['objects']}" for one in report["categories"]),
    ]
    if "keypoints" in report:
        one = report["keypoints"]
        lines.append(
            f"keypoints: {one['visible']} visible, {one['hidden']} hidden, {one['not_labelled']} not labelled; "
            f"{one['people_without']} people without any"
        )
    bad = report["bad_annotations"] + [f"{one['file']}: {one['reason']}" for one in report["bad_images"]]
    lines.append(
        f"bad entries: {len(report['bad_annotations'])} annotations and {len(report['bad_images'])} images, "
        "which training leaves out"
        if bad
        else "no bad entries"
    )
    lines += [f"  {one}" for one in bad[:LISTED]]
    if len(bad) > LISTED:
        lines.append(f"  and {len(bad) - LISTED} more, in check.json")
    return "\n".join(lines)


def _words(spread: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in spread.items()) or "none"


def _sample_picture(config: CheckDataConfig, annotations: CocoAnnotations, task: Task) -> Image.Image | None:
    """A few augmented training samples with their boxes or poses, each beside what its heatmaps should be."""
    occupied = annotations.occupied()
    if not len(occupied):
        return None
    dataset = TrainingSet(
        occupied, config.images, config.input_size, augment=config.augment, seed=config.seed, skeleton=task.skeleton
    )
    samples = []
    for index in np.linspace(0, len(dataset) - 1, min(4 * config.samples, len(dataset))).astype(int):
        sample = dataset[0, int(index)]
        if isinstance(sample, Sample):
            samples.append(sample)
        if len(samples) == config.samples:
            break
    if not samples:
        return None
    pictures = [picture for sample in samples for picture in _pair(sample, task, config.input_size)]
    captions = [text for sample in samples for text in (f"image {sample.image_id}", "heatmap targets")]
    return grid(pictures, 4, captions=captions)


def _pair(sample: Sample, task: Task, input_size: int) -> tuple[Image.Image, Image.Image]:
    image = Image.fromarray(sample.image)
    entries = [
        {
            "category_id": task.categories[label].id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "keypoints": keypoints.ravel(),
        }
        for (x1, y1, x2, y2), label, keypoints in zip(sample.boxes, sample.labels, sample.keypoints, strict=True)
    ]
    drawn = task.picture(image, entries, truth=True, legend=False)
    side = input_size // STRIDE
    targets = task.targets(collate([sample]), (side, side), STRIDE)._asdict()
    maps = torch.cat([value[0] for name, value in targets.items() if name.endswith("heatmap")])
    return drawn, _heat(image, maps.amax(0)).resize(drawn.size)


def _heat(image: Image.Image, heatmap: Tensor) -> Image.Image:
    """The image in grey, with the heatmap (h, w) over it in orange."""
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None] * np.ones(3, np.float32)
    heat = Image.fromarray((255 * heatmap.numpy()).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    share = np.asarray(heat, dtype=np.float32)[..., None] / 255
    return Image.fromarray(((1 - share) * 0.6 * grey + share * np.array([255, 140, 0])).astype(np.uint8))
