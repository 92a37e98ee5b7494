"""Which images each step of an epoch takes: a pure function of seed and epoch, so that a run can resume anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from train.errors import ConfigError


def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """(length,) int64: the order in which an epoch goes through a data set of so many images."""
    # The 1 keeps this stream apart from those of the samples, which are seeded by [seed, epoch, index], index < length.
    return np.random.default_rng([seed, epoch, length, 1]).permutation(length)


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) keys for one process of `processes`.

    A global batch is `batch` images in the epoch's order; process r takes every `processes`-th from the r-th on.
    A last, smaller global batch is left out, as in CenterNet; the next epoch has another order. A data set smaller than
    one batch makes one batch an epoch.
    """

    def __init__(self, length: int, batch: int, seed: int, *, process: int = 0, processes: int = 1) -> None:
        """Raises ConfigError where the images of a batch cannot be shared out evenly."""
        self.length, self.seed = length, seed
        self.batch = min(batch, length)
        self.process, self.processes = process, processes
        self.batches = length // self.batch
        self.epoch = 0
        self.start = 0
        if self.batch % processes:
            raise ConfigError(
                f"--batch: {self.batch} images (of {length} in the data set) cannot be shared out evenly "
                f"among {processes} processes"
            )

    def set_position(self, epoch: int, start: int = 0) -> None:
        """What the next iteration yields: `epoch` from its batch number `start` on."""
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = epoch_order(self.length, self.seed, self.epoch)
        for number in range(self.start, self.batches):
            rows = order[number * self.batch : (number + 1) * self.batch]
            yield [(self.epoch, int(index)) for index in rows[self.process :: self.processes]]

    def __len__(self) -> int:
        return self.batches - self.start
