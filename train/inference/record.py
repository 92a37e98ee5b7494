"""How an evaluation was made: written beside its results, so that it is found again and not made twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from mdnkernels.train.config.options import InferenceConfig, Orientation
from mdnkernels.train.config.serialisation import from_plain, to_plain
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.run.files import write_json

FILE = "made.json"


@dataclass(frozen=True)
class EvaluationRecord:
    """What the results of an evaluation depend on, and what its speed does."""

    step: int
    """The optimizer steps that the network had taken."""
    checkpoint: Path | None
    """Its file, where that is not the run's last checkpoint."""
    images: Path
    annotations: Path
    orientation: Orientation
    limit: int | None
    """Of the images only so many were looked at."""
    inference: InferenceConfig
    each_component: bool
    """Whether each component of a mixture was scored alone too."""
    command: Literal["fit", "evaluate"]
    """evaluate folds batch norms, and is faster than fit."""
    device: str
    batch: int
    processes: int

    def answers(self, needed: EvaluationRecord, *, timed: bool) -> bool:
        """Tell whether this evaluation has the numbers that another one would have. timed: its speed too."""
        if needed.each_component and not self.each_component:
            return False
        if timed:
            return self == needed
        same = {name: getattr(self, name) for name in ("each_component", "command", "device", "batch", "processes")}
        return self == dataclasses.replace(needed, **same)

    @property
    def name(self) -> str:
        """A name for its folder: the step, and a few digits for the rest."""
        digest = hashlib.sha256(json.dumps(to_plain(self), sort_keys=True).encode()).hexdigest()
        return f"step{self.step}-{digest[:8]}"

    def write(self, folder: Path) -> None:
        """Write it into an evaluation's folder."""
        write_json(folder / FILE, to_plain(self))


def read_record(folder: Path) -> EvaluationRecord | None:
    """Return the record of an evaluation's folder; None where there is none, or one of another version."""
    try:
        return from_plain(EvaluationRecord, json.loads((folder / FILE).read_text()), str(folder / FILE))
    except (OSError, ValueError, RecursionError, ConfigError):
        return None


def name_of_device(device: torch.device) -> str:
    """Return what a device's speed goes by: "cpu" and the threads, or the name of the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else device.type
