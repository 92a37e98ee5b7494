from __future__ import annotations

import random
from typing import Any

import torch

import mdnkernels
from tests.ops.table.draw import Draw
from tests.ops.table.entry import Arguments, Entry, Moved, Workload, size_of


def arguments(
    draw: Draw,
    labels: int = 3,
    spread: float = 3.0,
    shift: float = 0.0,
    positives: float = 0.05,
    slopes: float = 1.0,
    float32_target: bool = False,
    **options: Any,
) -> Arguments:
    """Draw a call. slopes: the share of cells on the slope of an object, where the target lies between 0 and 0.9."""
    logits = draw.normal(labels) * spread + shift
    target = 0.9 * ((draw.uniform(labels) - 1) / slopes + 1).clamp(min=0)
    target = torch.where(draw.happens(positives, target), 1.0, target)
    wanted = torch.promote_types(draw.dtype, torch.float32) if float32_target else draw.dtype
    return {"logits": draw.floats(logits), "target": draw.placed(target.to(wanted)), **options}


def random_options(random: random.Random) -> dict[str, Any]:
    powers = {"alpha": random.choice([0.0, 1.0, 2.0, 2.5]), "beta": random.choice([0.0, 3.5, 4.0])}
    return {
        "labels": random.choice([1, 2]),
        "spread": random.choice([1.0, 30.0]),
        "positives": random.choice([0.0, 0.1]),
        "float32_target": random.random() < 0.3,
        **random.choice([{}, powers]),
    }


def moved(arguments: Arguments) -> Moved:
    """Read logits and target, write the gradient: e n + 4 n read and e n written for n elements."""
    read = size_of(arguments["logits"], arguments["target"])
    return Moved(read, read + size_of(arguments["logits"]))


# The target is float32, as `splat_gaussians` makes it: nearly all 0, some slopes, one cell in 5,000 a centre.
TRAINED = {"labels": 80, "spread": 1.0, "shift": -2.0, "positives": 2e-4, "slopes": 0.05, "float32_target": True}

ENTRY = Entry(
    mdnkernels.heatmap_focal_loss,
    arguments,
    {
        "powers of the paper": {},
        "other powers": {"alpha": 1.5, "beta": 3.5},
        "no powers": {"alpha": 0.0, "beta": 0.0},
        "no positives": {"positives": 0.0},
        "extreme": {"spread": 3000.0},
    },
    representatives=("powers of the paper",),
    random_options=random_options,
    workloads={"": Workload(TRAINED)},
    moved=moved,
    differentiable=("logits",),
    trained=("logits",),
    fused_gradient=True,
)
