"""Which images each step of an epoch takes: a pure function of seed and epoch, so that a run can resume anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from mdnkernels.train.data.coco import CocoAnnotations
from mdnkernels.train.errors import ConfigError


class ImageList(NamedTuple):
    """What tells one list of training images from another: a position in an epoch is one in the order of its list."""

    images: int
    """How many there are."""
    fingerprint: str
    """SHA-256 of their ids and file names, in the list's order."""

    @classmethod
    def of(cls, annotations: CocoAnnotations) -> ImageList:
        """Describe the images of `annotations`; what is annotated in them does not count."""
        content = hashlib.sha256(annotations.image_ids.astype("<i8").tobytes())
        content.update(b"\0".join(annotations.file_names.tolist()))
        return cls(len(annotations), content.hexdigest())


def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order in which an epoch goes through a data set of `length` images, (length,) int64."""
    # The 1 keeps this stream apart from those of the samples, which are seeded by [seed, epoch, index], index < length.
    return np.random.default_rng([seed, epoch, length, 1]).permutation(length)


def batches_left(length: int, batch: int, done: int, processes: int = 1) -> list[range]:
    """Give the positions of each global batch that an epoch of `length` images has left, the first `done` being done.

    The images that are too few for a batch at the end of an epoch are left out, as in CenterNet. An epoch in which
    another batch size was taken before, so that `done` is no multiple of this one, takes them as a smaller batch: what
    it leaves out is at most one image fewer than there are processes.
    """
    batches = [range(first, first + batch) for first in range(done, length - batch + 1, batch)]
    first = batches[-1].stop if batches else done
    if done % batch and length - first >= processes:
        batches.append(range(first, length))
    return batches


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) keys for one process of `processes`.

    A global batch is `batch` images in the epoch's order; process r takes every `processes`-th from the r-th on.
    `batches_left` says which there are: a last, smaller global batch is left out; the next epoch has another order. A
    data set smaller than one batch makes one batch an epoch.
    """

    def __init__(self, length: int, batch: int, seed: int, *, process: int = 0, processes: int = 1) -> None:
        """Begin at the first epoch. Raises ConfigError where a batch's images cannot be shared out evenly."""
        self.length, self.seed = length, seed
        self.batch = min(batch, length)
        self.process, self.processes = process, processes
        self.batches = length // self.batch
        self.epoch = 0
        self.left = self.batches_left(0)
        if self.batch % processes:
            raise ConfigError(
                f"--batch: {self.batch} images (of {length} in the data set) cannot be shared out evenly "
                f"among {processes} processes"
            )

    def batches_left(self, done: int) -> list[range]:
        """Give the positions of each global batch that an epoch has left after its first `done` images."""
        return batches_left(self.length, self.batch, done, self.processes)

    def set_position(self, epoch: int, done: int = 0) -> None:
        """Choose what the next iteration yields: `epoch`, of which the first `done` images in its order are done."""
        self.epoch, self.left = epoch, self.batches_left(done)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = epoch_order(self.length, self.seed, self.epoch)
        for positions in self.left:
            rows = order[positions.start : positions.stop]
            yield [(self.epoch, int(index)) for index in rows[self.process :: self.processes]]

    def __len__(self) -> int:
        return len(self.left)
