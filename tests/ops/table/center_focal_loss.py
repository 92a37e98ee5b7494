from __future__ import annotations

import random
from typing import Any

import mdnkernels
from tests.ops.table import splat_gaussians
from tests.ops.table.draw import Draw
from tests.ops.table.entry import Arguments, Entry, Moved, Workload, size_of


def arguments(
    draw: Draw,
    points: int = 6,
    labels: int = 3,
    largest: int = 4,
    padded: bool = True,
    ignored: float = 0.0,
    spread: float = 3.0,
    shift: float = 0.0,
    **options: Any,
) -> Arguments:
    """Draw a call. ignored: the share of objects that are neither to be found nor background."""
    logits = draw.floats(draw.normal(labels) * spread + shift)
    center, radius, label, _, _ = splat_gaussians.arguments(draw, points, labels, largest, padded).values()
    if ignored:
        options["ignore"] = draw.happens(ignored, label)
    return {"logits": logits, "center": center, "radius": radius, "label": label, **options}


def random_options(random: random.Random) -> dict[str, Any]:
    powers = {"alpha": random.choice([0.0, 1.0, 2.0, 2.5]), "beta": random.choice([0.0, 3.5, 4.0])}
    return {
        "points": random.choice([0, 1, 20]),
        "labels": random.choice([1, 4]),
        "largest": 11,
        "ignored": random.choice([0.0, 0.3]),
        "spread": random.choice([1.0, 30.0]),
        **random.choice([{}, powers]),
    }


def moved(arguments: Arguments) -> Moved:
    """Read logits and four integers an object, write the gradient: e n + 32 B N read and e n written, n elements."""
    read = size_of(arguments["logits"], arguments["center"], arguments["radius"], arguments["label"])
    return Moved(read, read + size_of(arguments["logits"]))


TRAINED = {"points": 32, "labels": 80, "largest": 15, "padded": False, "spread": 1.0, "shift": -2.0}

ENTRY = Entry(
    mdnkernels.center_focal_loss,
    arguments,
    {
        "powers of the paper": {},
        "other powers": {"alpha": 1.5, "beta": 3.5},
        "no powers": {"alpha": 0.0, "beta": 0.0},
        "no objects": {"points": 0},
        "ignored objects": {"points": 12, "ignored": 0.5},
        "large objects": {"points": 40, "largest": 80, "labels": 1},
        "extreme": {"spread": 3000.0},
    },
    representatives=("powers of the paper", "ignored objects"),
    random_options=random_options,
    workloads={
        "": Workload({"points": 32, "labels": 80, "largest": 15, "padded": False, "spread": 1.0, "shift": -2.0})
    },
    moved=moved,
    differentiable=("logits",),
    trained=("logits",),
    maps_alone=True,
    draws_in_float32=True,
    fused_gradient=True,
)
