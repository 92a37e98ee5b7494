from __future__ import annotations

from typing import Any

import mdnkernels
from tests.ops.table import mixture, mixture_nll
from tests.ops.table.draw import Draw
from tests.ops.table.entry import Arguments, Entry, Moved, Workload, size_of


def arguments(draw: Draw, **options: Any) -> Arguments:
    """Draw a call, whose options are those of mixture_nll."""
    return mixture_nll.arguments(draw, **options)


def moved(arguments: Arguments) -> Moved:
    """Read logits, loc, scale, target and mask; write the posterior in float32: 4 P M written for P positions."""
    logits = arguments["logits"]
    maps = size_of(*(value for value in arguments.values() if hasattr(value, "element_size")))
    total = maps + logits.numel() * max(logits.element_size(), 4)
    return Moved(total, total)


ENTRY = Entry(
    mdnkernels.mixture_posterior,
    arguments,
    {
        "masked": {},
        **{
            str(family): {"family": family, "scale_activation": "softplus", "kappa": True}
            for family in mixture.FAMILIES[1:]
        },
        "every position": {"groups": None, "scale_activation": "exp"},
        "indexed": {"points": 11},
        "tempered pairs": {"temperature": 2.0, "block": 2, "observed": 0.3},
        "nothing observed": {"observed": 0.0},
    },
    representatives=("masked", "indexed"),
    random_options=mixture_nll.observation_options,
    workloads={"pose": Workload(mixture_nll.POSE)},
    moved=moved,
)
