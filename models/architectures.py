"""The backbones that there are, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mdnkernels.models.dla import DLA34
from mdnkernels.models.hourglass import HOURGLASS104, HOURGLASS_SMALL, HOURGLASS_TINY, Hourglass
from mdnkernels.models.network import Backbone


@dataclass(frozen=True)
class Architecture:
    """Says how to make a backbone, and the width of the heads that it carries."""

    backbone: Callable[[], Backbone]
    head_width: int


ARCHITECTURES = {
    "hourglass104": Architecture(lambda: Hourglass(HOURGLASS104), head_width=256),
    "dla34": Architecture(DLA34, head_width=256),
    "hourglass_small": Architecture(lambda: Hourglass(HOURGLASS_SMALL), head_width=64),
    "hourglass_tiny": Architecture(lambda: Hourglass(HOURGLASS_TINY), head_width=48),
}
