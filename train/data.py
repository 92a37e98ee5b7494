"""Images and boxes for the network: the data set, its batches, and what to do with broken images."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from train.coco import CocoAnnotations, read_annotations
from train.config import AugmentConfig
from train.errors import DatasetError
from train.images import ImageError, open_image, warp
from train.interrupt import leave_to_parent
from train.shared_arrays import SharedArrays
from train.transforms import (
    IDENTITY_COLOUR,
    Augmentation,
    clip_boxes,
    draw_augmentation,
    fit_window,
    invert,
    move_boxes,
)

logger = logging.getLogger("train")


class Sample(NamedTuple):
    """One image in the network's input."""

    image: np.ndarray
    """(H, W, 3) uint8, RGB."""
    colour: np.ndarray
    """(7,) float32 colour-jitter parameters, applied on the device."""
    boxes: np.ndarray
    """(A, 4) float32: x1, y1, x2, y2 in input pixels, clipped, each of positive size."""
    labels: np.ndarray
    """(A,) int64."""
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


class DetectionDataset(Dataset[Sample | BadSample]):
    """The images of a COCO-format list, warped to the input; items are asked for by (epoch, index).

    A sample is a function of (seed, epoch, index) alone: neither the workers nor the order nor a resume change it.
    """

    def __init__(
        self,
        annotations: CocoAnnotations,
        images: Path,
        input_size: int,
        *,
        augment: AugmentConfig | None = None,
        seed: int = 0,
    ) -> None:
        """images: folder of the files. input_size: side of the input in pixels. augment: None fits images in whole.

        Raises DatasetError where the folder, or every single image in it, is missing.
        """
        if not images.is_dir():
            raise DatasetError(f"{images}: there is no such folder of images (for {annotations.path})")
        names = (annotations[i].file_name for i in range(len(annotations)))
        if not any((images / name).exists() for name in names):
            raise DatasetError(f"{images}: holds none of the {len(annotations)} images that {annotations.path} lists")
        self.annotations = annotations
        self.images = images
        self.size = (input_size, input_size)
        self.augment = augment if augment is not None and augment.augment else None
        self.seed = seed
        self._shared: SharedArrays | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For a worker that is not forked: it reads the annotations where all of them do."""
        arrays = {name: value for name, value in vars(self.annotations).items() if isinstance(value, np.ndarray)}
        if self._shared is None:
            self._shared = SharedArrays(arrays)
        without = dataclasses.replace(self.annotations, **dict.fromkeys(arrays))
        return vars(self) | {"annotations": without}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._shared is not None:
            self.annotations = dataclasses.replace(self.annotations, **self._shared.views())

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: tuple[int, int]) -> Sample | BadSample:
        epoch, index = key
        entry = self.annotations[index]
        path = self.images / entry.file_name
        try:
            with open_image(path) as image:
                width, height = image.size
                if entry.width and entry.height and (width, height) != (entry.width, entry.height):
                    raise ImageError(
                        f"is {width} x {height} pixels (as stored, without EXIF rotation), "
                        f"{self.annotations.path} says {entry.width} x {entry.height}"
                    )
                drawn = self._draw(epoch, index, (width, height))
                pixels = warp(image, drawn.matrix, self.size)
        except ImageError as error:
            return BadSample(entry.id, str(path), str(error))
        boxes = clip_boxes(move_boxes(entry.boxes, invert(drawn.matrix)), self.size[1], self.size[0]).astype(np.float32)
        visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & ~entry.crowd
        return Sample(
            image=pixels,
            colour=drawn.colour,
            boxes=boxes[visible],
            labels=entry.labels[visible],
            image_id=entry.id,
            transform=drawn.matrix,
            original_size=(width, height),
        )

    def _draw(self, epoch: int, index: int, image_size: tuple[int, int]) -> Augmentation:
        if self.augment is None:
            return Augmentation(fit_window(image_size, self.size), IDENTITY_COLOUR)
        rng = np.random.default_rng([self.seed, epoch, index])
        return draw_augmentation(rng, image_size, self.size, self.augment)


def collate(samples: Sequence[Sample | BadSample]) -> dict[str, Any]:
    """A batch: what could not be read is left out of the tensors (B may be 0) and listed in "bad".

    "image" uint8 (B, 3, H, W), channels beside one another in memory; "colour" float32 (B, 7); "boxes" float32
    (B, N, 4); "labels" int64 (B, N), -1 padding; "image_id" int64 (B,); "transform" float64 (B, 2, 3), from input to
    image coordinates; "original_size" int64 (B, 2), width and height; "bad" list of BadSample. N is the largest number
    of boxes, at least 1.
    """
    bad = [sample for sample in samples if isinstance(sample, BadSample)]
    good = [sample for sample in samples if isinstance(sample, Sample)]
    if not good:
        return {"image": torch.empty(0, 3, 1, 1, dtype=torch.uint8), "bad": bad}
    most = max(1, *(len(sample.labels) for sample in good))
    boxes = torch.zeros(len(good), most, 4)
    labels = torch.full((len(good), most), -1)
    for row, sample in enumerate(good):
        boxes[row, : len(sample.labels)] = torch.from_numpy(sample.boxes)
        labels[row, : len(sample.labels)] = torch.from_numpy(sample.labels)
    return {
        "image": torch.from_numpy(np.stack([sample.image for sample in good])).permute(0, 3, 1, 2),
        "colour": torch.from_numpy(np.stack([sample.colour for sample in good])),
        "boxes": boxes,
        "labels": labels,
        "image_id": torch.tensor([sample.image_id for sample in good]),
        "transform": torch.from_numpy(np.stack([sample.transform for sample in good])),
        "original_size": torch.tensor([sample.original_size for sample in good]),
        "bad": bad,
    }


class BadSamples:
    """Counts images that cannot be read, warns once of each, and stops when they are too many to be accidents."""

    def __init__(self, length: int, source: Path) -> None:
        """length: images in the data set. source: its annotation file, for the message."""
        self.limit = max(10, length // 10)
        self.length = length
        self.source = source
        self.seen: dict[str, str] = {}

    def add(self, bad: Sequence[BadSample]) -> None:
        """Raises DatasetError once more than a tenth of the images (and more than ten) are bad."""
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


def open_dataset(
    annotations: Path,
    images: Path,
    input_size: int,
    *,
    limit: int | None = None,
    augment: AugmentConfig | None = None,
    seed: int = 0,
) -> DetectionDataset:
    """Reads the annotations, warns of those left out, and makes the data set. Raises DatasetError."""
    entries = read_annotations(annotations)
    if entries.skipped:
        first = entries.skipped[0]
        logger.warning("%s: skipped %d annotations; the first: %s", annotations, len(entries.skipped), first)
    return DetectionDataset(entries.first(limit), images, input_size, augment=augment, seed=seed)


def make_loader(
    dataset: DetectionDataset, batches: Iterable[list[tuple[int, int]]], workers: int, pin: bool
) -> DataLoader[Any]:
    """Batches of `collate` for (epoch, index) keys. pin: put them where a GPU can fetch them while it computes."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        persistent_workers=workers > 0,
        worker_init_fn=leave_to_parent,
    )


def batch_tensor(batch: dict[str, Any], name: str, device: torch.device) -> Tensor:
    """One tensor of a batch on the device, copied while the device computes where the loader pinned it."""
    tensor: Tensor = batch[name]
    return tensor.to(device, non_blocking=True)
