"""How a mixture's components share the objects of training: over the steps between two records, and over an epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.loop.processes import Processes

# A component with a smaller share of an epoch's objects is hardly trained.
LEAST_SHARE = 0.01

Sums = dict[str, NDArray[np.float64]]


class UsageMeter:
    """Sums of `Regression.usage` over steps and processes; they stay on the device until they are read."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._on_device: dict[str, Tensor] = {}
        self._since_read: Sums = {}
        self._in_epoch: Sums = {}

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Add this process's sums of one step, or of a part of one."""
        for name, value in sums.items():
            self._on_device[name] = self._on_device[name] + value if name in self._on_device else value

    def read(self) -> dict[str, float]:
        """Return what `describe` says of all processes' objects since this was last called; all must call it."""
        self._gather()
        sums, self._since_read = self._since_read, {}
        return describe(sums)

    def read_epoch(self) -> dict[str, float]:
        """Return what `describe` says of all processes' objects since this was last called, likewise."""
        self._gather()
        sums, self._in_epoch = self._in_epoch, {}
        return describe(sums)

    def _gather(self) -> None:
        """Bring over what lies on the device: float32 there, float64 here, where an epoch's sums are long."""
        if not self._on_device:
            return
        sizes = [value.numel() for value in self._on_device.values()]
        flat = self._processes.sum(torch.cat([value.reshape(-1) for value in self._on_device.values()]))
        values = np.split(flat.double().cpu().numpy(), np.cumsum(sizes)[:-1])
        for name, value in zip(self._on_device, values, strict=True):
            for totals in (self._since_read, self._in_epoch):
                totals[name] = totals[name] + value if name in totals else value
        self._on_device = {}


def describe(sums: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Return how components share objects, from the sums of `Regression.usage`; nothing for the base.

    "objects" is their number. For each component m: "share_m", its mean posterior; "chosen_m", the share of objects at
    which it has the largest mixing weight; "sigma_m", its mean standard deviation in cells (of a pose: before each
    keypoint's constant). "choice_entropy" is the mean entropy of the mixing weights over its largest possible value.
    Where there was no object, all but their number are nan.
    """
    if not sums:
        return {}
    objects = float(sums["objects"][0])
    count = objects if objects > 0 else float("nan")
    found = {"objects": objects, "choice_entropy": float(sums["choice_entropy"][0]) / count}
    for name in ("share", "chosen", "sigma"):
        found |= {f"{name}_{m}": float(value) / count for m, value in enumerate(sums[name])}
    return found


def shares_of(usage: Mapping[str, float]) -> list[float]:
    """Return each component's share by posterior; none for the base."""
    return [usage[f"share_{m}"] for m in range(sum(name.startswith("share_") for name in usage))]


def share_text(usage: Mapping[str, float]) -> str:
    """Return the components' shares for a line of progress, where there are several and an object."""
    shares = shares_of(usage)
    if len(shares) < 2 or not usage["objects"]:
        return ""
    return f" share {'/'.join(f'{100 * share:.0f}' for share in shares)} %"


class UnusedComponents:
    """Finds components that hardly any object of an epoch belongs to, and says of each once that it is so."""

    def __init__(self, config: FitConfig) -> None:
        self._config = config
        self._known: set[int] = set()

    def warning(self, usage: Mapping[str, float], epoch: int) -> str | None:
        """Return what to warn of after a whole epoch, or None where nothing is new.

        usage: of all objects of the epoch, as of `describe`. epoch: its number, for people. A component that had
        recovered is new again.
        """
        shares = shares_of(usage)
        unused = {m for m, share in enumerate(shares) if share < LEAST_SHARE}
        new = unused - self._known
        self._known = unused
        if not new:
            return None
        names = " and ".join(f"component {m} has {100 * shares[m]:.2f} %" for m in sorted(unused))
        return (
            f"epoch {epoch}: {names} of the {usage['objects']:.0f} objects (less than {LEAST_SHARE:.0%}), and hardly "
            f"learns; {self._remedy(shares)}"
        )

    def _remedy(self, shares: Sequence[float]) -> str:
        used = sum(share >= LEAST_SHARE for share in shares)
        fewer = f"--components {used}, as many as have a share"
        if self._config.model.start == "zero":
            return f"a new run with --start data gives each component a kind of objects to start at; or try {fewer}"
        return f"where no kind of objects is so rare, try another --seed, or {fewer}"
