from __future__ import annotations

import random
from typing import Any

import torch

import mdnkernels
from tests.ops.table import mixture
from tests.ops.table.draw import Draw
from tests.ops.table.entry import Arguments, Entry, Moved, Workload, size_of


def arguments(
    draw: Draw,
    components: int = 4,
    dims: int = 6,
    scales: int | None = 2,
    points: int | None = None,
    chosen: tuple[int, ...] | None = None,
    below: float = 0.0,
    spread: float = 1.0,
    change: int | None = None,
    extreme: bool = False,
    block: int = 1,
    shared: bool = False,
    kappa: bool = False,
    **options: Any,
) -> Arguments:
    """Draw a call.

    scales: None for no scale. below: how far the logits of the `chosen` lie below those of the others.
    """
    activation = options.get("scale_activation", "elu")
    drawn = mixture.parameters(draw, components, dims, scales or 1, activation, spread, change)
    if extreme:
        drawn = {name: draw.stretch(value, 1e4) for name, value in drawn.items()}
    if chosen is not None:
        drawn["logits"][:, list(chosen)] -= below
        options["components"] = chosen
    if block > 1:
        drawn["tril"] = mixture.correlation(draw, components, dims, block, shared)
        options["block_size"] = block
    made: Arguments = {name: draw.floats(value) for name, value in drawn.items()}
    if kappa:
        made["dim_scale"] = torch.linspace(0.5, 2, dims, device=draw.generator.device).to(draw.dtype)
    if scales is None:
        made["scale"] = None
    if points is not None:
        made["index"] = draw.index(points)
    return {**made, "scale_order": "interleaved", **options}


def random_options(random: random.Random) -> dict[str, Any]:
    options = mixture.random_options(random)
    select = random.choice(["weight", "density", "mean"])
    some = random.sample(range(options["components"]), random.randint(1, options["components"]))
    without_scale = select != "density" and random.random() < 0.2
    return {
        **options,
        "scales": None if without_scale else options["scales"],
        "block": 1 if without_scale or mixture.is_discrete(options["family"]) else options["block"],
        "kappa": random.random() < 0.4,
        "chosen": tuple(some) if random.random() < 0.3 else None,
        "select": select,
    }


def moved(arguments: Arguments) -> Moved:
    """Read logits and the chosen component's loc and scale; write these, the component (8 bytes) and its weight.

    e P (M + C + S) read and e P (C + S + 1) + 8 P written.
    """
    logits, loc, scale = (arguments[name] for name in ("logits", "loc", "scale"))
    chosen = size_of(loc, scale) // logits.shape[1]
    positions = logits[:, 0]
    total = size_of(logits) + chosen + chosen + size_of(positions) + 8 * positions.numel()
    return Moved(total, total)


ENTRY = Entry(
    mdnkernels.mixture_mode,
    arguments,
    {
        "weight": {},
        "density": {"select": "density", "scale_activation": "softplus"},
        "mean": {"select": "mean", "scale_activation": "exp", "scales": 3},
        "one component": {"select": "density", "scale_activation": "identity", "components": 1, "scales": 1},
        "indexed": {"points": 11},
        "mean indexed": {"points": 11, "select": "mean", "components": 3, "dims": 2},
        "no points": {"points": 0, "select": "density"},
        "extreme": {"extreme": True},
        # Below float32's least number every chosen alpha is 0: the logits alone tell them apart.
        "some of no weight": {"chosen": (3, 1), "below": 120.0},
        "mean of no weight": {"chosen": (2, 1), "below": 95.0, "select": "mean", "scale_activation": "softplus"},
        "mean of no weight indexed": {"chosen": (0, 3), "below": 200.0, "select": "mean", "points": 11},
        "density indexed": {"points": 11, "select": "density"},
        "mean of some": {"chosen": (2, 0), "select": "mean"},
        "pairs": {"block": 2, "select": "density"},
        "mean of pairs": {"block": 2, "select": "mean", "kappa": True, "chosen": (3, 0)},
        "mean of triples indexed": {"block": 3, "shared": True, "select": "mean", "points": 11, "family": "laplace"},
        "mass": {"select": "density", "kappa": True, "family": mixture.FAMILIES[4], "scale_order": "blocks"},
        "mean logistic": {"select": "mean", "family": "logistic", "scale_order": "blocks"},
    },
    representatives=("weight", "density indexed", "mean", "mean of some"),
    random_options=random_options,
    # Which component is the strongest changes over some sixteen cells, as in a network's maps.
    workloads={"pose": Workload({"components": 3, "dims": 34, "change": 16})},
    moved=moved,
    differentiable=("logits", "loc", "scale", "tril"),
)
