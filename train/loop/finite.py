"""Finds the step whose loss is not finite, without a wait for the device at each step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mdnkernels.train.errors import TrainingError
from mdnkernels.train.loop.processes import Processes


class FiniteLosses:
    """Keeps on the device which step since the last `check` was the first whose total is not finite, and its losses.

    All processes have the same losses, and each its own images.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._names: list[str] = []
        self._first: Tensor | None = None
        """(1 + L,) float32: the step's place in `_steps`, -1 for none, and its losses."""
        self._steps: list[tuple[int, list[int]]] = []
        """The number of each step and this process's image ids."""

    def add(self, losses: Mapping[str, Tensor], number: int, image_ids: list[int]) -> Tensor:
        """Add a step. Return a float32 scalar on the device: 1 where it, or one since `check`, is not finite, else 0.

        losses: scalars on the device, by name, with their "total". number: of the step, for people.
        """
        self._names = list(losses)
        values = torch.stack([value.detach().float() for value in losses.values()])
        this_step = torch.cat((values.new_full((1,), len(self._steps)), values))
        self._steps.append((number, image_ids))
        none = torch.full_like(this_step, -1)
        now = torch.where(losses["total"].isfinite(), none, this_step)
        self._first = now if self._first is None else torch.where(self._first[0] >= 0, self._first, now)
        return (self._first[0] >= 0).float()

    def check(self) -> None:
        """Read the device: raise TrainingError where a step since the last call was not finite. All must call it.

        The error names the step, its losses and the images of all processes.
        """
        if self._first is None:
            return
        place, *values = self._first.tolist()
        steps, self._steps, self._first = self._steps, [], None
        if place < 0:
            return
        number, image_ids = steps[int(place)]
        losses = ", ".join(f"{name} {value:g}" for name, value in zip(self._names, values, strict=True))
        ids = ", ".join(map(str, self._processes.gather_objects(image_ids)))
        raise TrainingError(f"step {number}: the loss is not finite ({losses}); image ids: {ids}")
