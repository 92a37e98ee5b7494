"""What a run reports: log.jsonl, TensorBoard, and a progress bar on a terminal or plain lines elsewhere.

The records of log.jsonl, and the names of their values:

- "step", after every --log-every steps, over the steps since the one before: learning_rate; loss/NAME of each loss and
  loss/total, means; images_per_second; data_wait; and of a mixture mixture/objects, mixture/share_M, mixture/chosen_M,
  mixture/sigma_M for each component M, mixture/choice_entropy (`train.loop.usage.describe`).
- "epoch", after its last step: seconds, skipped_images, and the same of a mixture as mixture_epoch/..., over all
  objects of the epoch. Of an epoch that was resumed, over those of the session that ended it.
- "evaluation": metrics/NAME of COCO's numbers.
- "start", of a run that starts at its data: share, loc and sigma of the clusters (`models.start.RegressionStart`).
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from mdnkernels.train.run.files import write_text


class RunLog:
    """Writes records as they come; each is in the file, readable, when its call returns."""

    def __init__(self, log: Path | None, *, step: int, steps: int) -> None:
        """Open `log`, the run's log.jsonl, and TensorBoard's file beside it. step: done so far. steps: of the run.

        With None, in a process that does not report, nothing is written. Records of later steps than `step`, which a
        run wrote after the checkpoint that it resumes from, are removed: they come again.
        """
        self._enabled = log is not None
        self._bar = None
        if log is None:
            return
        _cut_after(log, step)
        self._file = log.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(log.parent), purge_step=step + 1)
        if sys.stderr.isatty():
            self._bar = tqdm(total=steps, initial=step, unit="step", dynamic_ncols=True)

    def record(self, kind: str, *, step: int, epoch: int, **values: float) -> None:
        """Write a record {"kind", "time", "step", "epoch", **values}; numbers that are not finite are left out.

        epoch counts from 1, for people. Every value is a TensorBoard scalar of its name too.
        """
        if not self._enabled:
            return
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._write({"kind": kind, "time": round(time.time(), 3), "step": step, "epoch": epoch, **finite})
        for name, value in finite.items():
            self._board.add_scalar(name, value, step)

    def note(self, kind: str, *, step: int, epoch: int, **values: Any) -> None:
        """Write a record as `record` does, of JSON's values, for the file alone."""
        if self._enabled:
            self._write({"kind": kind, "time": round(time.time(), 3), "step": step, "epoch": epoch, **values})

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def picture(self, name: str, picture: Image, *, step: int) -> None:
        """Write a picture for TensorBoard."""
        if self._enabled:
            self._board.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def advance(self) -> None:
        """Move the bar on by one step."""
        if self._bar is not None:
            self._bar.update()

    def say(self, text: str) -> None:
        """Print lines for people, above the bar where there is one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._enabled:
            print(text, file=sys.stderr, flush=True)

    def progress(self, text: str) -> None:
        """Say how training goes, beside the bar or as a line."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        else:
            self.say(text)

    def close(self) -> None:
        """Close the bar and the files."""
        if self._enabled:
            self._file.close()
            self._board.close()
        if self._bar is not None:
            self._bar.close()


def read_log(log: str | PathLike[str]) -> list[dict[str, Any]]:
    """Read the records of a run's log.jsonl; a last line that a killed run left unfinished is not one.

    Each is a dict with "kind", "step" and "epoch": of kind "step" with the losses, "loss/total" for one; of kind
    "evaluation" with COCO's numbers, "metrics/AP" for one. The module says the rest.
    """
    records = []
    for line in Path(log).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError):  # the second for lists that are nested without end
            continue
    return records


def _cut_after(log: Path, step: int) -> None:
    kept = [record for record in read_log(log) if record["step"] <= step]
    write_text(log, "".join(json.dumps(record) + "\n" for record in kept))


class LossMeter:
    """Sums over the steps since it was last read; losses stay on the device until then: no step waits for them."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Any] = {}
        self._steps = 0
        self._images = 0
        self._waited = 0.0
        self._seconds = 0.0

    def add(self, losses: Mapping[str, Tensor], images: int, waited: float, seconds: float) -> None:
        """Add one step. losses: scalars on the device. waited: how many of its seconds the step waited for its data."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._steps += 1
        self._images += images
        self._waited += waited
        self._seconds += seconds

    def read(self) -> dict[str, float]:
        """Return mean losses as "loss/NAME", "images_per_second", and "data_wait", the share of time spent waiting.

        Starts anew with the next step. At least one step must have been added.
        """
        totals = torch.stack(list(self._sums.values())).tolist()
        values = {f"loss/{name}": total / self._steps for name, total in zip(self._sums, totals, strict=True)}
        values |= {"images_per_second": self._images / self._seconds, "data_wait": self._waited / self._seconds}
        self._reset()
        return values
