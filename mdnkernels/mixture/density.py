"""How a mixture's parameters become the densities of its components, as the one object that every backend takes."""

from __future__ import annotations

from dataclasses import dataclass

from mdnkernels.mixture.families import Family


@dataclass(frozen=True)
class Density:  # no NamedTuple, whose properties torch 2.10 does not compile
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
        of_scale = (self.scale_activation, self.min_scale, self.interleaved)
        return self.family.name, self.family.parameter, *of_scale, self.block_size

    @property
    def neutral_scale(self) -> float:
        """A raw scale that every activation takes, in the place of what must not be read."""
        return 1.0 if self.scale_activation == "identity" else 0.0
