"""How a mixture's parameters become the densities of its components, as the one object that every backend takes."""

from __future__ import annotations

from typing import NamedTuple

from mdnkernels.mixture.families import Family


class Density(NamedTuple):
    """The options of a mixture's likelihood that a caller's arguments come to.

    interleaved: dimension d has scale d % S, and not d // (C // S). block_size: dimensions of a correlated block, 1
    where none are correlated.
    """

    family: Family
    scale_activation: str
    min_scale: float
    interleaved: bool
    block_size: int

    @property
    def options(self) -> tuple[str, float, str, float, bool, int]:
        """Its fields, as the kernels take them."""
        return self.family.name, self.family.parameter, *self[1:]

    @property
    def neutral_scale(self) -> float:
        """A raw scale that every activation takes, in the place of what must not be read."""
        return 1.0 if self.scale_activation == "identity" else 0.0
