"""Networks for detection (and, on the same parts, for other tasks): a backbone, heads, and their decoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from models.decode import Detections, Mixture, decode_detections, decode_peaks
from models.detector import Detector
from models.heads import Head, HeadConfig
from models.hourglass import HOURGLASS104, HOURGLASS_SMALL, Hourglass, HourglassConfig
from models.network import Backbone, Network

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Backbone",
    "Detections",
    "Detector",
    "Head",
    "HeadConfig",
    "Hourglass",
    "HourglassConfig",
    "Mixture",
    "Network",
    "build_model",
    "decode_detections",
    "decode_peaks",
]


@dataclass(frozen=True)
class Architecture:
    """How to make a backbone, and the width of the heads that it carries."""

    backbone: Callable[[], Backbone]
    head_width: int


ARCHITECTURES = {
    "hourglass104": Architecture(lambda: Hourglass(HOURGLASS104), head_width=256),
    "hourglass_small": Architecture(lambda: Hourglass(HOURGLASS_SMALL), head_width=64),
}
TASKS = {"detection": Detector}


def build_model(arch: str, *, task: str = "detection", num_classes: int, components: int) -> Detector:
    """A network with fresh weights.

    arch: a key of `ARCHITECTURES`. task: a key of `TASKS`. num_classes: at least 1. components: of the size mixture; 0
    is the single-mode CenterNet base, trained with L1. Raises ValueError that names what is wrong and what there is.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown arch {arch!r}; there are {', '.join(ARCHITECTURES)}")
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; there are {', '.join(TASKS)}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, not {num_classes}")
    if components < 0:
        raise ValueError(f"components must be 0 (the single-mode base) or more, not {components}")
    architecture = ARCHITECTURES[arch]
    return TASKS[task](architecture.backbone(), architecture.head_width, num_classes, components)
