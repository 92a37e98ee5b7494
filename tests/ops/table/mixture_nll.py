from __future__ import annotations

import random
from typing import Any

import torch

import mdnkernels
from tests.ops.table import mixture
from tests.ops.table.draw import Draw
from tests.ops.table.entry import SECTOR, Arguments, Entry, Moved, Workload, size_of


def arguments(
    draw: Draw,
    components: int = 3,
    dims: int = 4,
    scales: int = 2,
    groups: int | None = 2,
    points: int | None = None,
    observed: float = 0.6,
    weighted: bool = False,
    kappa: bool = False,
    spread: float = 3.0,
    extreme: bool = False,
    block: int = 1,
    shared: bool = False,
    assigned: bool = False,
    **options: Any,
) -> Arguments:
    """Draw a call.

    groups: of the mask, None for none. points: of an index, None for all positions. kappa: with dim_scale. block: how
    many dimensions are correlated, by entries that all blocks share or not. assigned: to components, or to none.
    """
    activation = options.get("scale_activation", "elu")
    drawn = mixture.parameters(draw, components, dims, scales, activation, spread, None)
    if extreme:
        # One parameter at a position: float32 has no digits of the difference of a large logit and a large energy.
        which = draw.integers(0, len(drawn), draw.batch, 1, *draw.positions)
        for number, (name, value) in enumerate(drawn.items()):
            drawn[name] = torch.where(which == number, draw.stretch(value, 1e4), value)
    where = draw.positions if points is None else (draw.count(points),)
    drawn["target"] = spread * draw.normal(dims, where)
    if block > 1:
        drawn["tril"] = mixture.correlation(draw, components, dims, block, shared)
        options["block_size"] = block
    made: Arguments = {name: draw.floats(value) for name, value in drawn.items()}
    if assigned:
        made["assign"] = draw.integers(-1, components, draw.batch, *where)
    if groups is not None:
        made["mask"] = draw.placed(draw.uniform(groups, where) < observed)
    if weighted:
        made["weight"] = draw.floats(draw.uniform(1, where))[:, 0]
    if points is not None:
        made["index"] = draw.index(points)
    if kappa:
        made["dim_scale"] = torch.linspace(0.5, 2, dims, device=draw.generator.device).to(draw.dtype)
    # A floor of sigma that leaves float32 digits of the difference of two components' log densities.
    return {**made, "scale_order": "interleaved", "min_scale": 0.25, **options}


def observation_options(random: random.Random) -> dict[str, Any]:
    """Draw the options that mixture_posterior has too."""
    options = mixture.random_options(random)
    if mixture.is_discrete(options["family"]):
        options["block"] = 1
    return {
        **options,
        "groups": random.choice([None, *mixture.divisors(options["dims"] // options["block"])]),
        "observed": random.choice([0.0, 0.05, 0.5, 1.0]),
        "kappa": random.random() < 0.4,
    }


def random_options(random: random.Random) -> dict[str, Any]:
    options = observation_options(random)
    return {
        **options,
        **random.choice([{}, {}, {"temperature": 3.0}, {"temperature": 0.5}, {"assign": "best"}, {"assigned": True}]),
        **random.choice([{}, {}, {"beta": 0.5}, gradient_options(options)]),
        "weighted": random.random() < 0.4,
        "reduction": random.choice(["mean", "sum", "none"]),
    }


def gradient_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the natural gradient, where that is defined."""
    discrete = mixture.is_discrete(options["family"])
    return {} if discrete or options["block"] > 1 else {"gradient": "natural"}


def moved(arguments: Arguments) -> Moved:
    """Read logits, loc, scale, target and mask; write the gradients of logits, loc and scale.

    e P (M + M C + M S + C) + P G read and e P (M + M C + M S) written for P positions of element size e.

    With an index of N points: read it, the target, and a sector for each element of logits, loc and scale at a point
    (in a planar map its neighbours in memory are other positions); write the gradients' whole maps.
    8 B N + e C B N + 32 B N (M + M C + M S) read and e P (M + M C + M S) written.
    """
    maps = [arguments[name] for name in ("logits", "loc", "scale")]
    others = [
        value for name, value in arguments.items() if isinstance(value, torch.Tensor) and name not in ENTRY.trained
    ]
    read = size_of(*others)
    if "index" in arguments:
        read += SECTOR * arguments["index"].numel() * sum(values.shape[1] for values in maps)
    else:
        read += size_of(*maps)
    return Moved(read, read + size_of(*maps))


POSE = {"dims": 34, "groups": 17, "observed": 1.0, "spread": 1.0}
DETECTION = {"dims": 2, "groups": 1, "observed": 1.0, "spread": 1.0}
ROWS = {"components": 5, "dims": 1, "scales": 1, "groups": None, "spread": 1.0}

BLOCKS = {"scale_order": "blocks"}

ENTRY = Entry(
    mdnkernels.mixture_nll,
    arguments,
    {
        "masked": {},
        **{
            f"weighted {family}": {"family": family, "scale_activation": "softplus", "weighted": True, "kappa": True}
            for family in mixture.FAMILIES[1:]
        },
        "every position": {
            "scale_activation": "exp",
            "min_scale": 1.0,
            "reduction": "none",
            "groups": None,
            "scales": 4,
        },
        "one component": {
            "scale_activation": "identity",
            "reduction": "sum",
            "groups": 4,
            "scales": 1,
            "kappa": True,
            "components": 1,
        },
        "pose": {"dims": 34, "groups": 17, "components": 2, "reduction": "sum", "weighted": True},
        "indexed": {"points": 11, "weighted": True},
        "indexed laplace": {
            "points": 11,
            "family": "laplace",
            "reduction": "none",
            "groups": None,
            "components": 5,
            "dims": 2,
        },
        "no points": {"points": 0},
        "nothing observed": {"observed": 0.0},
        "little observed": {"observed": 0.02, "groups": 1, "reduction": "none"},
        "extreme": {"extreme": True, "reduction": "none", "spread": 1.0},
        **{
            f"extreme {family}": {
                "extreme": True,
                "family": family,
                "points": 33,
                "spread": 1.0,
            }  # one more than a warp
            for family in mixture.FAMILIES[1:]
        },
        "mean of little": {"observed": 0.05, "groups": 1},
        "pairs": {"dims": 6, "block": 2, "scales": 2, "groups": 3, "weighted": True, "kappa": True},
        "pairs that share": {"dims": 6, "block": 2, "shared": True, "scales": 3, "groups": 1, **BLOCKS},
        "pairs indexed": {"dims": 4, "block": 2, "points": 11, "family": "laplace", "groups": None},
        "triples": {"dims": 6, "block": 3, "scales": 6, "groups": 2, "family": mixture.FAMILIES[2], "reduction": "sum"},
        "full covariance": {"dims": 5, "block": 5, "scales": 1, "groups": 1, "family": "logistic", "observed": 0.3},
        "scales of blocks": {"dims": 6, "scales": 3, "groups": 3, "kappa": True, **BLOCKS},
        "tempered": {"temperature": 3.0, "weighted": True},
        "cold": {"temperature": 0.25, "groups": None, "reduction": "none"},
        "best": {"assign": "best"},
        "assigned": {"assigned": True, "groups": None, "weighted": True},
        "assigned indexed": {"assigned": True, "points": 11, "family": "laplace", "reduction": "none"},
        "assigned pairs": {
            "assigned": True,
            "dims": 6,
            "block": 2,
            "scales": 2,
            "groups": 3,
            "components": 7,
            "kappa": True,
        },
        "little assigned": {"assigned": True, "observed": 0.05, "groups": 1, "components": 2, "reduction": "sum"},
        "beta": {"beta": 0.5, "kappa": True, "scale_activation": "softplus", "min_scale": 0.1},
        "beta of pairs": {"beta": 1.0, "block": 2, "reduction": "sum", "family": "logistic"},
        **{
            f"natural {family}": {"gradient": "natural", "kappa": True, "family": family, "min_scale": 0.1}
            for family in mixture.FAMILIES
            if not mixture.is_discrete(family)
        },
    },
    representatives=("weighted laplace", "every position", "mean of little", "indexed", "pairs", "assigned indexed"),
    random_options=random_options,
    workloads={
        "pose": Workload(POSE),
        "detection": Workload(DETECTION),
        "rows": Workload(ROWS, batch=1_000_000, positions=()),
        "pose, 32 objects by index": Workload({**POSE, "groups": None, "points": 32}),
        "detection, batch 64": Workload(DETECTION, batch=64, dtypes=(torch.float32,)),
        "pose, channels_last": Workload(POSE, layout="channels_last", dtypes=(torch.float32,)),
    },
    moved=moved,
    differentiable=("logits", "loc", "scale", "target", "tril"),
    trained=("logits", "loc", "scale"),
    fused_gradient=True,
)
