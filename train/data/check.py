"""The report on a data set, before anybody trains on it: what it holds and what is wrong in it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mdnkernels.models.skeleton import Skeleton
from mdnkernels.train.config.commands import CheckDataConfig
from mdnkernels.train.config.options import Orientation
from mdnkernels.train.config.rules import check_config
from mdnkernels.train.data.check_text import text_of
from mdnkernels.train.data.coco import CocoAnnotations
from mdnkernels.train.data.coco_file import read_annotations
from mdnkernels.train.data.images import exif_orientation, has_transparency, image_size, open_image, read_rgb
from mdnkernels.train.data.objects import why_no_object
from mdnkernels.train.data.plausibility import EXAMPLES, find_doubts
from mdnkernels.train.data.sets import CocoImages, Sample, TrainingSet, collate
from mdnkernels.train.drawing.pictures import grid
from mdnkernels.train.run.files import write_json, write_picture
from mdnkernels.train.tasks import make_task, task_class
from mdnkernels.train.tasks.base import Task

# COCO's limits of small and medium, areas in square pixels.
AREAS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, float("inf"))}
STRIDE = 4


def check_data(config: CheckDataConfig) -> dict[str, Any]:
    """Write check.json and samples.png to the configured folder and return what check.json holds.

    {"images", "images_without_objects", "objects", "crowds", "objects_per_image", "sides", "areas", "categories",
    "keypoints", "skeleton", "bad_annotations", "no_object_to_train_on" (the reason, or None), "unused_categories",
    "people_without_keypoints", "bad_images", "turned", "transparent", "doubts"}. Raises ConfigError, and DatasetError
    where the list as a whole cannot be used.
    """
    check_config(config)
    wanted = task_class(config.task).skeleton_to_read(config.keypoint_sigmas)
    listed = read_annotations(config.annotations, wanted).first(config.limit)
    annotations = listed.inside()
    task = make_task(config.task, annotations.categories, annotations.skeleton)
    images = CocoImages(listed, config.images, annotations.skeleton, config.orientation)
    report = describe(annotations)
    files = _inspect_files(images)
    report["bad_images"] = [
        {"id": listed[i].id, "file": file.path, "reason": file.problem} for i, file in enumerate(files) if file.problem
    ]
    report["turned"] = _describe_turned(listed, files, config.orientation)
    report["transparent"] = [file.path for file in files if file.transparent]
    sizes = np.array([file.size for file in files], dtype=np.int64)
    sizes = np.where(np.all(listed.sizes > 0, axis=1, keepdims=True), listed.sizes, sizes)
    report["doubts"] = [dataclasses.asdict(doubt) for doubt in find_doubts(listed, sizes)]
    config.output.mkdir(parents=True, exist_ok=True)
    write_json(config.output / "check.json", report)
    print(text_of(report), flush=True)
    picture = _sample_picture(config, annotations, task, {file.id for file in files if file.turn > 1})
    if picture is not None:
        write_picture(config.output / "samples.png", picture)
        print(f"{config.output / 'samples.png'}: augmented samples, each beside its heatmap targets")
    return report


def describe(annotations: CocoAnnotations) -> dict[str, Any]:
    """Count and measure what a list holds. Sides are in pixels; areas are the annotations' own."""
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
        "no_object_to_train_on": why_no_object(annotations),
        "unused_categories": list(annotations.unused_categories),
        "people_without_keypoints": list(annotations.without_keypoints),
    }
    if annotations.keypoints.shape[1]:
        visibility = annotations.keypoints[real, :, 2]
        report["keypoints"] = {
            "people_without": int((visibility == 0).all(1).sum()),
            "visible": int((visibility == 2).sum()),
            "hidden": int((visibility == 1).sum()),
            "not_labelled": int((visibility == 0).sum()),
        }
    if annotations.skeleton is not None:
        report["skeleton"] = describe_skeleton(annotations.skeleton)
    return report


def describe_skeleton(skeleton: Skeleton) -> dict[str, Any]:
    """Describe a skeleton by its keypoints' names: which change places in mirrored images, and which lack a partner."""

    def named(pairs: Sequence[tuple[int, int]]) -> list[list[str]]:
        return [[skeleton.names[keypoint] for keypoint in pair] for pair in pairs]

    return {
        "sigmas": dict(zip(skeleton.names, skeleton.sigmas, strict=True)),
        "flip_pairs": named(skeleton.flip_pairs),
        "unpaired": list(skeleton.unpaired),
        "links": named(skeleton.links),
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    numbers = (values.min(), np.median(values), values.mean(), values.max())
    return {name: round(float(value), 2) for name, value in zip(("min", "median", "mean", "max"), numbers, strict=True)}


class _File(NamedTuple):
    """What an image file turns out to be."""

    id: int
    """Of its image in the list."""
    path: str
    problem: str | None = None
    """Why it cannot be used."""
    size: tuple[int, int] = (0, 0)
    """Width and height in the configured orientation."""
    stored: tuple[int, int] = (0, 0)
    """Width and height as stored."""
    turn: int = 1
    """How EXIF says that it is to be turned, 1 for not at all."""
    transparent: bool = False


def _inspect_files(images: CocoImages) -> list[_File]:
    """Decode each image to the end: what is missing, damaged or without a range, or has another size than listed."""

    def inspect(index: int) -> _File:
        entry = images.annotations[index]
        path = images.images / entry.file_name
        file = _File(entry.id, str(path))
        try:
            with open_image(path) as image:
                turn, stored = exif_orientation(image), image.size
                file = file._replace(stored=stored, turn=turn, size=image_size(image, images.orientation))
                images.size_of(entry, image)
                read_rgb(image)
                return file._replace(transparent=has_transparency(image))
        except Exception as error:  # a broken file makes Pillow's many decoders raise almost anything
            return file._replace(problem=str(error) or type(error).__name__)

    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
        return list(pool.map(inspect, range(len(images))))


def _describe_turned(annotations: CocoAnnotations, files: Sequence[_File], orientation: Orientation) -> dict[str, Any]:
    """Describe the files that EXIF turns, and say which image of theirs, stored or turned, the list seems to be of.

    "sizes" and "boxes" count the images of which the listed size, or the boxes, fit one of both alone; "likely" is
    which, where all agree.
    """
    turned = [i for i, file in enumerate(files) if file.turn > 1]
    sizes, boxes = ({"stored": 0, "exif": 0} for _ in range(2))
    for i in turned:
        entry, stored = annotations[i], files[i].stored
        upright = stored[::-1] if files[i].turn >= 5 else stored
        if stored == upright:
            continue
        fits = [bool((entry.boxes[:, 2:] <= np.array(size) + 1).all()) for size in (stored, upright)]
        for name, size, inside, inside_other in zip(sizes, (stored, upright), fits, fits[::-1], strict=True):
            sizes[name] += (entry.width, entry.height) == size
            boxes[name] += inside and not inside_other
    likely = [name for name in sizes if sizes[name] or boxes[name]]
    return {
        "files": len(turned),
        "orientations": dict(sorted(Counter(str(files[i].turn) for i in turned).items())),
        "first": [files[i].path for i in turned[:EXAMPLES]],
        "sizes": sizes,
        "boxes": boxes,
        "taken": orientation,
        "likely": likely[0] if len(likely) == 1 else None,
    }


def _sample_picture(
    config: CheckDataConfig, annotations: CocoAnnotations, task: Task, turned: set[int]
) -> Image.Image | None:
    """Draw a few augmented training samples with their boxes or poses, each beside what its heatmaps should be.

    turned: ids of images that EXIF turns; up to half of the samples are of these.
    """
    occupied = annotations.occupied()
    if not len(occupied):
        return None
    dataset = TrainingSet(
        occupied,
        config.images,
        config.input_size,
        augment=config.augment,
        seed=config.seed,
        skeleton=task.skeleton,
        orientation=config.orientation,
    )
    spread = np.linspace(0, len(dataset) - 1, min(4 * config.samples, len(dataset))).astype(int).tolist()
    first = [i for i in range(len(dataset)) if int(occupied.image_ids[i]) in turned][: (config.samples + 1) // 2]
    samples = []
    for index in dict.fromkeys([*first, *spread]):
        sample = dataset[0, index]
        if isinstance(sample, Sample):
            samples.append(sample)
        if len(samples) == config.samples:
            break
    if not samples:
        return None
    pictures = [picture for sample in samples for picture in _pair(sample, task, config.input_size)]
    captions = [text for sample in samples for text in (_caption(sample, turned), "heatmap targets")]
    return grid(pictures, 4, captions=captions)


def _caption(sample: Sample, turned: set[int]) -> str:
    return f"image {sample.image_id}" + (", turned by EXIF" if sample.image_id in turned else "")


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
    targets = task.targets(collate([sample]), (side, side), STRIDE)
    maps = [one.draw(max(1, int(one.label.max()) + 1), (side, side))[0] for one in targets.heatmaps.values()]
    return drawn, _heat(image, torch.cat(maps).amax(0)).resize(drawn.size)


def _heat(image: Image.Image, heatmap: Tensor) -> Image.Image:
    """Draw the image in grey, with the heatmap (h, w) over it in orange."""
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None] * np.ones(3, np.float32)
    heat = Image.fromarray((255 * heatmap.numpy()).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    share = np.asarray(heat, dtype=np.float32)[..., None] / 255
    return Image.fromarray(((1 - share) * 0.6 * grey + share * np.array([255, 140, 0])).astype(np.uint8))
