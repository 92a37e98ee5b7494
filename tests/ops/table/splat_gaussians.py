from __future__ import annotations

import random
from typing import Any

import torch

import mdnkernels
from tests.ops.table.draw import Draw
from tests.ops.table.entry import Arguments, Entry, Moved, Workload, size_of


def arguments(draw: Draw, points: int = 6, labels: int = 3, largest: int = 4, padded: bool = True) -> Arguments:
    """Draw a call. largest: radius; padded: some of the objects are padding."""
    height, width = draw.positions
    shape = (draw.batch, draw.count(points))
    center = torch.stack([draw.integers(0, width, *shape), draw.integers(0, height, *shape)], -1)
    radius, label = draw.integers(0, largest + 1, *shape), draw.integers(-padded, labels, *shape)
    if draw.layout != "contiguous":
        center = center.permute(2, 1, 0).contiguous().permute(2, 1, 0)
        radius, label = draw.placed(radius.T.contiguous().T), draw.placed(label)
    return {"center": center, "radius": radius, "label": label, "num_labels": labels, "size": (height, width)}


def random_options(random: random.Random) -> dict[str, Any]:
    return {"points": random.choice([0, 1, 20]), "labels": random.choice([1, 4]), "largest": 11}


def moved(arguments: Arguments) -> Moved:
    """Read four integers an object, write the heatmaps: 32 B N read and 4 B Y H W written."""
    center, radius, label, labels, (height, width) = arguments.values()
    total = size_of(center, radius, label) + 4 * label.shape[0] * labels * height * width
    return Moved(total, total)


ENTRY = Entry(
    mdnkernels.splat_gaussians,
    arguments,
    {"objects": {}, "no objects": {"points": 0}, "large objects": {"points": 40, "largest": 80, "labels": 1}},
    representatives=("objects",),
    random_options=random_options,
    workloads={"": Workload({"points": 32, "labels": 80, "largest": 15, "padded": False}, dtypes=(torch.float32,))},
    moved=moved,
    dtypes=(torch.float32,),
    layouts=("contiguous", "transposed"),
    maps_alone=True,
)
