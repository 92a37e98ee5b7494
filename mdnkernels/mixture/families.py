"""The families of the mixture in plain PyTorch: the specification, and the oracle of every other backend.

The same formulas stand a second time in csrc/mixture/family.h, and in Triton in mdnkernels/mixture/triton.py.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mdnkernels import checks


@dataclass(frozen=True)
class Family(ABC):
    """A family of densities: with a standardised residual z, -log phi is the sum of value(z) + log sigma + constant."""

    name: ClassVar[str]

    @abstractmethod
    def value(self, z: Tensor) -> Tensor:
        """Return what depends on z, elementwise."""

    @property
    @abstractmethod
    def constant(self) -> float:
        """What does not depend on z, beside log sigma."""

    @property
    def parameter(self) -> float:
        """The number that kernels take beside the name: the one field, or 0 where there is none."""
        return 0.0


@dataclass(frozen=True)
class Gaussian(Family):
    """value(z) = z^2 / 2, constant = log(2 pi) / 2."""

    name: ClassVar[str] = "gaussian"

    def value(self, z: Tensor) -> Tensor:
        return 0.5 * z.square()

    @property
    def constant(self) -> float:
        return math.log(2 * math.pi) / 2


@dataclass(frozen=True)
class Laplace(Family):
    """value(z) = |z|, constant = log 2."""

    name: ClassVar[str] = "laplace"

    def value(self, z: Tensor) -> Tensor:
        return z.abs()

    @property
    def constant(self) -> float:
        return math.log(2)


@dataclass(frozen=True)
class StudentT(Family):
    """value(z) = (df + 1) / 2 log(1 + z^2 / df), constant = log(df pi) / 2 + lgamma(df / 2) - lgamma((df + 1) / 2).

    Its tails fall like |z|^-(df + 1): a far outlier pulls at loc with (df + 1) / |z| and not with |z|.

    Args:
        df: degrees of freedom, above 0 and fixed; 1 is Cauchy's distribution, and large ones come near the Gaussian.

    Raises:
        TypeError: df is not a number.
        ValueError: df is not within 1e-30 to 1e30, where float32 can hold what follows from it.
    """

    name: ClassVar[str] = "student_t"
    df: float

    def __post_init__(self) -> None:
        checks.number("df", self.df, 1e-30)
        if self.df > 1e30:
            raise ValueError(f"df must be at most 1e30, got {self.df}; so near the Gaussian take family='gaussian'")

    @property
    def parameter(self) -> float:
        return float(self.df)

    def value(self, z: Tensor) -> Tensor:
        return (self.df + 1) / 2 * torch.log1p(z.square() / self.df)

    @property
    def constant(self) -> float:
        half = self.df / 2
        if half < 100:
            return math.log(self.df * math.pi) / 2 + math.lgamma(half) - math.lgamma(half + 0.5)
        # The difference cancels where it is large; this is its expansion.
        return math.log(2 * math.pi) / 2 + 1 / (8 * half) - 1 / (192 * half**3) + 1 / (640 * half**5)


FAMILIES: dict[str, type[Family]] = {family.name: family for family in (Gaussian, Laplace, StudentT)}
_WITHOUT_PARAMETER = {name: family() for name, family in FAMILIES.items() if not dataclasses.fields(family)}


def family_of(family: object) -> Family:
    """Return what a caller gave as a family: itself, or that of a name where the name says all.

    Raises:
        TypeError: it is neither a family nor a name.
        ValueError: no family has that name, or it needs a parameter; says what to write.
    """
    if isinstance(family, Family):
        return family
    if not isinstance(family, str):
        raise TypeError(f"family must be a name or a family such as mdnkernels.Laplace(), got {family!r}")
    if family in _WITHOUT_PARAMETER:
        return _WITHOUT_PARAMETER[family]
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(map(repr, FAMILIES))}, got {family!r}")
    (field,) = dataclasses.fields(FAMILIES[family])
    example = f"family=mdnkernels.{FAMILIES[family].__name__}({field.name}=4.0)"
    raise ValueError(f"family {family!r} needs its {field.name}: write {example}, for instance")


def with_parameter(name: str, parameter: float) -> Family:
    """Return the family that a kernel was given by name and parameter."""
    family: Callable[..., Family] = FAMILIES[name]
    return _WITHOUT_PARAMETER[name] if name in _WITHOUT_PARAMETER else family(parameter)
