from __future__ import annotations

import random
from typing import Any

import torch

import mdnkernels
from tests.ops.table.draw import Draw
from tests.ops.table.entry import SECTOR, Arguments, Entry, Moved, Workload, size_of


def arguments(draw: Draw, channels: int = 6, points: int = 9, kernel_size: int = 3) -> Arguments:
    return {"feature": draw.floats(draw.normal(channels)), "index": draw.index(points), "kernel_size": kernel_size}


def random_options(random: random.Random) -> dict[str, Any]:
    return {
        "channels": random.choice([1, 3, 16]),
        "points": random.choice([0, 1, 3, 9, 33]),
        "kernel_size": random.choice([1, 3, 5]),
    }


def moved(arguments: Arguments) -> Moved:
    """Read index and windows, write patches; backward, read the patches' gradients and write the feature's.

    With n = B N C k^2 elements in the patches: 8 B N + e n read, a sector for every row of k elements where the map is
    planar, and e n written; then 8 B N + e n read and e B C H W written.
    """
    feature, index, kernel_size = arguments.values()
    elements = index.numel() * feature.shape[1] * kernel_size**2
    patches = elements * feature.element_size()
    windows = SECTOR * elements // kernel_size if feature.is_contiguous() else patches
    forward = size_of(index) + windows + patches
    return Moved(forward, forward + size_of(index) + patches + size_of(feature))


HEAD = {"channels": 256, "points": 32}

ENTRY = Entry(
    mdnkernels.gather_patches,
    arguments,
    {
        "windows": {},
        "cells": {"kernel_size": 1, "channels": 16},
        "wide": {"kernel_size": 7},
        "no points": {"points": 0},
    },
    representatives=("windows",),
    random_options=random_options,
    workloads={
        "channels_last": Workload(HEAD, layout="channels_last"),
        "planar": Workload(HEAD, dtypes=(torch.float32,)),
    },
    moved=moved,
    differentiable=("feature",),
    trained=("feature",),
    maps_alone=True,
    linear=True,
)
