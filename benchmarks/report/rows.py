"""What the report measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.ops.table import CASES, OPS, Call, Case, Draw

OPS_TABLE = "ops"
# Sizes of mixture_nll, one of which grows at a time: images, components, dimensions, and cells along a side.
BASE = {"B": 4, "M": 3, "C": 16, "side": 64}
GROWING = {
    "B": (1, 2, 4, 8, 16, 32),
    "M": (1, 2, 3, 5, 8, 16),
    "C": (1, 2, 4, 8, 16, 32, 64),
    "side": (8, 16, 32, 64, 128, 256),
}
QUICK_BASE = {"B": 2, "M": 3, "C": 4, "side": 8}
QUICK = {"B": (1, 2), "M": (1, 3), "C": (2, 4), "side": (4, 8)}


def base(quick: bool) -> dict[str, int]:
    return QUICK_BASE if quick else BASE


@dataclass(frozen=True)
class Row:
    """A call that is timed on several ways."""

    part: str
    """OPS_TABLE, or the size that grows."""
    name: str
    dtype: torch.dtype
    size: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    case: Case | None = None
    main: bool = True
    """Whether all ways are timed, or the fused ones and the floor alone."""

    def call(self, device: str, seed: int, small: bool) -> Call:
        """Draw its call."""
        if self.case is not None:
            return self.case.call(device, self.dtype, small, seed)
        batch, components, dims, side = (self.sizes[name] for name in BASE)
        draw = Draw(batch, (side, side), self.dtype, seed=seed, device=device)
        options: dict[str, Any] = {"components": components, "dims": dims, "scales": 1, "groups": None, "spread": 1.0}
        return OPS["mixture_nll"].draw(draw, **options)


def rows(quick: bool) -> Iterator[Row]:
    """Yield every workload of the table in its first dtype, then in the others, then the growing sizes."""
    for nth in range(max(len(case.of.dtypes) for case in CASES)):
        for case in CASES:
            if nth < len(case.of.dtypes):
                yield Row(OPS_TABLE, str(case), case.of.dtypes[nth], case=case, main=nth == 0)
    for name, values in (QUICK if quick else GROWING).items():
        for value in values:
            yield Row(name, "mixture_nll", torch.float32, value, {**base(quick), name: value})
