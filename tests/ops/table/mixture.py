"""What the ops of mixtures are drawn from."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from torch import Tensor
from torch.nn import functional

from mdnkernels.mixture import families
from tests.ops.table.draw import Draw

# Each of the library's own table: by name where the name says all, else with some parameter.
FAMILIES = tuple(family(3.5) if dataclasses.fields(family) else name for name, family in families.FAMILIES.items())
ACTIVATIONS = ("elu", "softplus", "exp", "identity")


def parameters(
    draw: Draw, components: int, dims: int, scales: int, activation: str, spread: float, change: int | None
) -> dict[str, Tensor]:
    """Draw logits, loc and scale in float64.

    Args:
        spread: of loc.
        change: over how many cells the logits change, as a network's do; None lets each cell have its own.
    """
    logits, loc, scale = (draw.normal(components * channels) for channels in (1, dims, scales))
    if change is not None:
        coarse = draw.normal(components, tuple(max(size // change, 1) for size in draw.positions))
        logits = functional.interpolate(coarse.float(), draw.positions, mode="bicubic").double()
    if activation == "identity":
        scale = scale.abs() + 0.25
    return {"logits": logits, "loc": spread * loc, "scale": scale}


def correlation(draw: Draw, components: int, dims: int, block: int, shared: bool) -> Tensor:
    """Draw tril in float64, for blocks of so many dimensions that share its entries or have their own."""
    return 0.5 * draw.normal(components * block * (block - 1) // 2 * (1 if shared else dims // block))


def random_options(random: random.Random) -> dict[str, Any]:
    """Draw the options that both ops share."""
    dims = random.choice([1, 2, 4, 6])
    return {
        "components": random.choice([1, 2, 3, 5]),
        "dims": dims,
        "scales": random.choice(divisors(dims)),
        "points": random.choice([None, None, random.choice([0, 1, 3, 9, 33])]),
        "scale_activation": random.choice(ACTIVATIONS),
        "min_scale": random.choice([0.25, 1.0]),
        "scale_order": random.choice(["blocks", "interleaved"]),
        "family": random.choice(FAMILIES),
        "block": random.choice([1, 1, random.choice(divisors(dims))]),
        "shared": random.random() < 0.5,
    }


def is_discrete(family: Any) -> bool:
    """Tell whether a family gives masses, which have no correlation."""
    return not families.family_of(family).log_sigma


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]
