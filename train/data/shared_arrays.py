"""Numpy arrays that all processes of a run see in one place of memory, however these were started."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch


class SharedArrays:
    """Copies of arrays in one block of shared memory.

    Pickled for another process (by multiprocessing, as a DataLoader does with its data set for workers that are not
    forked) it becomes the same memory there, not a copy. Pickled to a file it is its content.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._layout: dict[str, tuple[str, tuple[int, ...], int]] = {}  # dtype, shape and place of each
        size = 0
        for name, array in arrays.items():
            self._layout[name] = (array.dtype.str, array.shape, size)
            size += -(-array.nbytes // 64) * 64
        self._block = torch.zeros(max(size, 1), dtype=torch.uint8).share_memory_()
        for name, view in self.views().items():
            view[...] = arrays[name]

    def views(self) -> dict[str, np.ndarray]:
        """Return the arrays by name; they keep the block alive."""
        block = self._block.numpy()
        return {
            name: np.ndarray(shape, dtype, buffer=block, offset=offset)
            for name, (dtype, shape, offset) in self._layout.items()
        }
