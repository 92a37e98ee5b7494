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
    k: int = 20,
    levels: float | None = None,
    special: tuple[float, ...] = (),
    **options: Any,
) -> Arguments:
    """Draw a call.

    levels: how many a unit has, for plateaus and ties. special: what lies at a twentieth of the cells each.
    """
    heatmap = draw.normal(labels)
    if levels is not None:
        heatmap = (heatmap * levels).round() / levels
    return {"heatmap": draw.floats(draw.sprinkle(heatmap, special)), "k": k, **options}


def random_options(random: random.Random) -> dict[str, Any]:
    return {
        "labels": random.choice([1, 4]),
        "k": random.choice([1, 5, 100]),
        "levels": random.choice([2.5, 10, 1000]),
        "kernel_size": random.choice([1, 3, 5]),
        "logits": random.random() < 0.5,
    }


def moved(arguments: Arguments) -> Moved:
    """Read the heatmap; write k scores, labels and indices: e B Y H W read and B k (e + 16) written."""
    heatmap, k = arguments["heatmap"], arguments["k"]
    total = size_of(heatmap) + heatmap.shape[0] * k * (heatmap.element_size() + 16)
    return Moved(total, total)


PEAKS = {"labels": 80, "k": 100, "logits": True}

ENTRY = Entry(
    mdnkernels.topk_peaks,
    arguments,
    {
        "scores": {},
        "one peak": {"k": 1, "kernel_size": 5},
        "every cell": {"k": 100, "kernel_size": 1},
        "logits": {"logits": True},
        "plateaus": {"levels": 1, "k": 60},
        "special": {"special": (float("nan"), float("inf"), float("-inf")), "k": 60},
    },
    representatives=("logits",),
    random_options=random_options,
    workloads={
        "k = 100": Workload(PEAKS, batch=1),
        "k = 100, batch 8": Workload(PEAKS, dtypes=(torch.float32,)),
    },
    moved=moved,
    maps_alone=True,
)
