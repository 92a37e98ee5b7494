"""How the losses are weighed where nobody says otherwise: CenterNet's weights, and the paper's for the mixture.

This module imports neither torch nor the command line's libraries: options take their defaults from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Of which stacks the mixture's loss is.
MixtureStacks = Literal["all", "last"]


@dataclass(frozen=True)
class LossWeights:
    """The weights of the losses of all tasks, and what else weighs them, by the names of the options."""

    heatmap_weight: float = 1.0
    offset_weight: float = 1.0
    size_weight: float = 0.1
    pose_weight: float | None = None
    """None stands for the task's own."""
    keypoint_weight: float = 1.0
    mixture_stacks: MixtureStacks = "all"
    choice_weight: float = 1.0
