"""Images and their annotations for the network: data sets, their batches, and what to do with broken images."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mdnkernels.command_line import program
from mdnkernels.models.skeleton import Skeleton
from mdnkernels.train.config.options import AugmentConfig, Orientation
from mdnkernels.train.data.coco import CocoAnnotations, ImageEntry
from mdnkernels.train.data.coco_file import read_annotations
from mdnkernels.train.data.images import ImageError, image_size, open_image, warp
from mdnkernels.train.data.plausibility import doubtful_boxes
from mdnkernels.train.data.shared_arrays import SharedArrays
from mdnkernels.train.data.skeletons import SkeletonInFile
from mdnkernels.train.data.transforms import (
    Placement,
    Views,
    clip_boxes,
    draw_augmentation,
    fit_image,
    invert,
    mirrors,
    move_boxes,
    move_points,
)
from mdnkernels.train.errors import DatasetError
from mdnkernels.train.loop.interrupt import leave_signals_to_parent

logger = logging.getLogger("mdnkernels.train")


class Sample(NamedTuple):
    """One image in the network's input, with J keypoints an object, 0 for detection."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB."""
    colour: np.ndarray
    """(7,) float32 colour-jitter parameters, applied on the device."""
    boxes: np.ndarray
    """(A, 4) float32: x1, y1, x2, y2 in input pixels, clipped, each of positive size."""
    labels: np.ndarray
    """(A,) int64."""
    keypoints: np.ndarray
    """(A, J, 3) float32: x and y in input pixels, which may lie outside, and COCO's 0, 1 or 2 as annotated."""
    image_id: int
    transform: np.ndarray
    """(2, 3) float64, from input to image coordinates."""
    original_size: tuple[int, int]
    """Width and height of the image in pixels."""


class BadSample(NamedTuple):
    """An image that could not be read."""

    image_id: int
    file: str
    reason: str


class CocoImages:
    """The images of a COCO-format list, warped to the network's input."""

    def __init__(
        self,
        annotations: CocoAnnotations,
        images: Path,
        skeleton: Skeleton | None = None,
        orientation: Orientation = "stored",
    ) -> None:
        """Take the images of `annotations` from the folder `images`.

        skeleton: that the annotations were read with. orientation: of the images that the annotations are of.

        Raises DatasetError where the folder, or every single image in it, is missing.
        """
        if not images.is_dir():
            raise DatasetError(f"{images}: there is no such folder of images (for {annotations.path})")
        names = (annotations[i].file_name for i in range(len(annotations)))
        if not any((images / name).exists() for name in names):
            raise DatasetError(f"{images}: holds none of the {len(annotations)} images that {annotations.path} lists")
        self.annotations = annotations
        self.images = images
        self.orientation = orientation
        # After a mirroring the row of each keypoint comes from its partner's.
        self.mirrored = [] if skeleton is None else list(skeleton.mirrored)
        self._shared: SharedArrays | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Hand the annotations to a worker that is not forked by shared memory, which all of them read."""
        arrays = {name: value for name, value in vars(self.annotations).items() if isinstance(value, np.ndarray)}
        nothing: dict[str, Any] = dict.fromkeys(arrays)
        if self._shared is None:
            self._shared = SharedArrays(arrays)
        without = dataclasses.replace(self.annotations, **nothing)
        return vars(self) | {"annotations": without}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._shared is not None:
            arrays: dict[str, Any] = self._shared.views()
            self.annotations = dataclasses.replace(self.annotations, **arrays)

    def __len__(self) -> int:
        return len(self.annotations)

    def read(self, index: int, place: Callable[[tuple[int, int]], Sequence[Placement]]) -> list[Sample] | BadSample:
        """Read an image in each of the places that `place` gives an image of its width and height."""
        entry = self.annotations[index]
        path = self.images / entry.file_name
        samples: list[Sample] = []
        places: Sequence[Placement] | None = None
        try:
            # A decoded image can no longer be shrunk by its decoder: each place opens it anew.
            while places is None or len(samples) < len(places):
                with open_image(path) as image:
                    size = self.size_of(entry, image)
                    places = place(size) if places is None else places
                    samples.append(self._sample(entry, image, size, places[len(samples)]))
        except ImageError as error:
            return BadSample(entry.id, str(path), str(error))
        return samples

    def size_of(self, entry: ImageEntry, image: Image) -> tuple[int, int]:
        """Return an opened image's width and height. Raises ImageError where its entry says others."""
        size, listed = image_size(image, self.orientation), (entry.width, entry.height)
        if 0 not in listed and size != listed:
            other: Orientation = "exif" if self.orientation == "stored" else "stored"
            taken = "as stored" if self.orientation == "stored" else "turned by its EXIF orientation"
            advice = f"; --orientation {other} takes it so" if image_size(image, other) == listed else ""
            raise ImageError(
                f"is {size[0]} x {size[1]} pixels {taken}, "
                f"{self.annotations.path} says {listed[0]} x {listed[1]}{advice}"
            )
        return size

    def _sample(self, entry: ImageEntry, image: Image, size: tuple[int, int], place: Placement) -> Sample:
        height, width = place.size
        pixels = warp(image, place.matrix, place.size, self.orientation)
        to_input = invert(place.matrix)
        boxes = clip_boxes(move_boxes(entry.boxes, to_input), width, height).astype(np.float32)
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & ~entry.crowd
        keypoints = entry.keypoints[kept]
        if mirrors(place.matrix):
            keypoints = keypoints[:, self.mirrored]
        points = move_points(keypoints[..., :2], to_input)
        return Sample(
            image=pixels,
            colour=place.colour,
            boxes=boxes[kept],
            labels=entry.labels[kept],
            keypoints=np.concatenate((points, keypoints[..., 2:]), axis=-1).astype(np.float32),
            image_id=entry.id,
            transform=place.matrix,
            original_size=size,
        )


class TrainingSet(CocoImages, Dataset[Sample | BadSample]):
    """Images under random augmentation, in a square input; items are asked for by (epoch, index).

    A sample is a function of (seed, epoch, index) alone: neither the workers nor the order nor a resume change it.
    """

    def __init__(
        self,
        annotations: CocoAnnotations,
        images: Path,
        input_size: int,
        *,
        augment: AugmentConfig,
        seed: int = 0,
        skeleton: Skeleton | None = None,
        orientation: Orientation = "stored",
    ) -> None:
        """input_size: side of the input in pixels; the rest as in `CocoImages`."""
        super().__init__(annotations, images, skeleton, orientation)
        self.size = (input_size, input_size)
        self.augment = augment
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Sample | BadSample:
        epoch, index = key
        samples = self.read(index, lambda image_size: [self._draw(epoch, index, image_size)])
        return samples if isinstance(samples, BadSample) else samples[0]

    def _draw(self, epoch: int, index: int, image_size: tuple[int, int]) -> Placement:
        if not self.augment.augment:
            return fit_image(image_size, self.size)
        rng = np.random.default_rng([self.seed, epoch, index])
        return draw_augmentation(rng, image_size, self.size, self.augment)


class EvaluationSet(CocoImages, Dataset["list[Sample] | BadSample"]):
    """Whole images at one scale or more; items are asked for by index and have a sample for each scale."""

    def __init__(
        self,
        annotations: CocoAnnotations,
        images: Path,
        views: Views,
        *,
        skeleton: Skeleton | None = None,
        orientation: Orientation = "stored",
    ) -> None:
        """views: the scales; the rest as in `CocoImages`."""
        super().__init__(annotations, images, skeleton, orientation)
        self.views = views

    def __getitem__(self, index: int) -> list[Sample] | BadSample:
        return self.read(index, self.views.of)


def collate(samples: Sequence[Sample | BadSample]) -> dict[str, Any]:
    """Make a batch; what could not be read is left out of the tensors (B may be 0) and listed in "bad".

    "image" uint8 (B, 3, H, W), channels beside one another in memory; "colour" float32 (B, 7); "boxes" float32
    (B, N, 4); "labels" int64 (B, N), -1 padding; "keypoints" float32 (B, N, J, 3); "image_id" int64 (B,); "transform"
    float64 (B, 2, 3), from input to image coordinates; "original_size" int64 (B, 2), width and height; "bad" list of
    BadSample. N is the largest number of objects, at least 1.
    """
    bad = [sample for sample in samples if isinstance(sample, BadSample)]
    good = [sample for sample in samples if isinstance(sample, Sample)]
    if not good:
        return {"image": torch.empty(0, 3, 1, 1, dtype=torch.uint8), "bad": bad}
    most = max(1, *(len(sample.labels) for sample in good))
    boxes = torch.zeros(len(good), most, 4)
    labels = torch.full((len(good), most), -1)
    keypoints = torch.zeros(len(good), most, *good[0].keypoints.shape[1:])
    for row, sample in enumerate(good):
        count = len(sample.labels)
        boxes[row, :count] = torch.from_numpy(sample.boxes)
        labels[row, :count] = torch.from_numpy(sample.labels)
        keypoints[row, :count] = torch.from_numpy(sample.keypoints)
    return {
        "image": torch.from_numpy(np.stack([sample.image for sample in good])).permute(0, 3, 1, 2),
        "colour": torch.from_numpy(np.stack([sample.colour for sample in good])),
        "boxes": boxes,
        "labels": labels,
        "keypoints": keypoints,
        "image_id": torch.tensor([sample.image_id for sample in good]),
        "transform": torch.from_numpy(np.stack([sample.transform for sample in good])),
        "original_size": torch.tensor([sample.original_size for sample in good]),
        "bad": bad,
    }


def collate_views(samples: Sequence[list[Sample] | BadSample]) -> list[dict[str, Any]]:
    """Make a batch by `collate` for each scale, of the same images in the same order and with the same "bad"."""
    bad = [sample for sample in samples if isinstance(sample, BadSample)]
    good = [sample for sample in samples if not isinstance(sample, BadSample)]
    return [collate([*scale, *bad]) for scale in zip(*good, strict=True)] or [collate(bad)]


class BadSamples:
    """Counts images that cannot be read, warns once of each, and stops when they are too many to be accidents."""

    def __init__(self, length: int, source: Path) -> None:
        """length: images in the data set. source: its annotation file, for the message."""
        self.limit = max(10, length // 10)
        self.length = length
        self.source = source
        self.seen: dict[str, str] = {}

    def add(self, bad: Sequence[BadSample]) -> None:
        """Count and warn. Raises DatasetError once more than a tenth of the images, and more than ten, are bad."""
        for sample in bad:
            if sample.file not in self.seen:
                self.seen[sample.file] = sample.reason
                logger.warning("skipped image %s: %s (%d so far)", sample.file, sample.reason, len(self.seen))
        if len(self.seen) > self.limit:
            file, reason = next(iter(self.seen.items()))
            raise DatasetError(
                f"{self.source}: images: {len(self.seen)} of {self.length} cannot be read, too many to skip; "
                f"the first: {file}: {reason}"
            )

    def __len__(self) -> int:
        return len(self.seen)


def open_annotations(
    path: Path, skeleton: Skeleton | SkeletonInFile | None = None, *, labelled: bool = True
) -> CocoAnnotations:
    """Read annotations and leave out those outside their images.

    Logs a warning of what is left out or completed, and of a habit that all boxes of the file seem to have. Arguments
    and DatasetError as in `read_annotations`.
    """
    listed = read_annotations(path, skeleton, labelled=labelled)
    for doubt in doubtful_boxes(listed, listed.sizes):
        if doubt.looks_like is not None:
            message = "%s: %s: the file looks like %s; %s check-data says how to mend it"
            logger.warning(message, path, doubt.text, doubt.looks_like, program())
    entries = listed.inside()
    for found, what in (
        (entries.skipped, "skipped %d annotations"),
        (entries.unused_categories, "left out %d categories"),
        (entries.without_keypoints, "took %d people without keypoints as people with none labelled"),
    ):
        if found:
            logger.warning(f"%s: {what}; the first: %s", path, len(found), found[0])
    return entries


def training_loader(
    dataset: TrainingSet, batches: Iterable[list[tuple[int, int]]], workers: int, pin: bool
) -> DataLoader[Any]:
    """Load batches of `collate` for (epoch, index) keys. pin: put them where a GPU can fetch them while it computes."""
    return _loader(dataset, batches, workers, pin, collate)


def evaluation_loader(dataset: EvaluationSet, batches: Iterable[list[int]], workers: int, pin: bool) -> DataLoader[Any]:
    """Load lists of `collate_views` for batches of indices. pin: as in `training_loader`."""
    return _loader(dataset, batches, workers, pin, collate_views)


def _loader(
    dataset: Dataset[Any], batches: Iterable[Any], workers: int, pin: bool, join: Callable[[Any], Any]
) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=join,
        pin_memory=pin,
        persistent_workers=workers > 0,
        worker_init_fn=leave_signals_to_parent,
    )


def batch_tensor(batch: dict[str, Any], name: str, device: torch.device) -> Tensor:
    """Copy one tensor of a batch to the device, while it computes where the loader pinned the batch."""
    tensor: Tensor = batch[name]
    return tensor.to(device, non_blocking=True)
