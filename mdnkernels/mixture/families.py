"""The families of the mixture in plain PyTorch: the specification, and the oracle of every other backend.

The same formulas stand a second time in csrc/mixture/family.h, and in Triton in mdnkernels/mixture/triton.py.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, distributions
from torch.distributions import Distribution
from torch.nn import functional

from mdnkernels import checks
from mdnkernels.mixture import student


@dataclass(frozen=True)
class Family(ABC):
    """A family of densities: of a standardised residual z, -log phi is the sum of value(z) + log sigma + constant."""

    name: ClassVar[str]
    log_sigma: ClassVar[bool] = True
    """Whether -log phi has the term log sigma; the mass of a discrete target has none."""
    spherical: ClassVar[bool] = False
    """Whether sums of independent dimensions are of the family: those of the Gaussian alone."""

    @abstractmethod
    def value(self, z: Tensor, inverse: Tensor) -> Tensor:
        """Return what depends on z, and on `inverse` = 1 / sigma, elementwise."""

    @property
    @abstractmethod
    def constant(self) -> float:
        """What does not depend on z, beside log sigma."""

    @property
    def parameter(self) -> float:
        """The number that kernels take beside the name: the one field, or 0 where there is none."""
        return 0.0

    @property
    @abstractmethod
    def variance(self) -> float | None:
        """The variance where sigma is 1; infinite where there is none, None where it does not grow as sigma^2."""

    @property
    @abstractmethod
    def information(self) -> tuple[float, float] | None:
        """Fisher's information of loc and of sigma at sigma = 1; None where it does not fall as sigma^-2."""

    @property
    def has_mean(self) -> bool:
        """Whether there is a mean, which then is 0."""
        return True

    def slope(self, z: Tensor) -> Tensor:
        """Return d value / dz, elementwise."""
        raise self.refusal("slope that depends on z alone")

    def density(self, z: Tensor) -> Tensor:
        """Return the density of z where loc is 0 and sigma 1, elementwise."""
        return torch.exp(-self.value(z, torch.ones_like(z)) - self.constant)

    def cdf(self, z: Tensor) -> Tensor:
        """Return the distribution function of z where loc is 0 and sigma 1, exact to rounding in the lower tail.

        All families are symmetric: the upper tail is cdf(-z).
        """
        raise self.refusal("continuous distribution function")

    def quantile(self, p: Tensor) -> Tensor:
        """Return the z of which `cdf` is p, for p of at most 1/2; -inf for 0. Not differentiable."""
        raise self.refusal("continuous quantiles")

    def draw(self, like: Tensor) -> Tensor:
        """Return independent draws where loc is 0 and sigma 1, of the shape, dtype and device of `like`."""
        raise self.refusal("draws")

    def distance(self, offset: Tensor, sigma: Tensor) -> Tensor:
        """Return E |offset + sigma Z|, elementwise."""
        raise self.refusal("closed form of the CRPS")

    def distance_of_two(self, offset: Tensor, sigma: Tensor, other: Tensor) -> Tensor:
        """Return E |offset + sigma Z + other Z'| of independent Z and Z', elementwise."""
        raise self.refusal("closed form of the CRPS of a mixture")

    def to_torch(self, loc: Tensor, scale: Tensor) -> Distribution:
        """Return the distribution of torch that has this location and scale."""
        raise self.refusal("like in torch.distributions")

    def refusal(self, what: str) -> NotImplementedError:
        """Return the error of a family that has no such thing."""
        return NotImplementedError(f"{self} has no {what}")


@dataclass(frozen=True)
class Gaussian(Family):
    """value(z) = z^2 / 2, constant = log(2 pi) / 2."""

    name: ClassVar[str] = "gaussian"
    spherical: ClassVar[bool] = True

    @property
    def variance(self) -> float:
        return 1.0

    @property
    def information(self) -> tuple[float, float]:
        return (1.0, 2.0)

    def value(self, z: Tensor, inverse: Tensor) -> Tensor:
        return 0.5 * z.square()

    def slope(self, z: Tensor) -> Tensor:
        return z

    def cdf(self, z: Tensor) -> Tensor:
        return torch.erfc(-math.sqrt(0.5) * z) / 2  # torch.special.ndtr has no digits of the lower tail

    def quantile(self, p: Tensor) -> Tensor:
        return torch.special.ndtri(p)

    def draw(self, like: Tensor) -> Tensor:
        return torch.randn_like(like)

    def distance(self, offset: Tensor, sigma: Tensor) -> Tensor:
        z = offset / sigma
        return offset * torch.erf(z / math.sqrt(2)) + 2 * sigma * self.density(z)

    def distance_of_two(self, offset: Tensor, sigma: Tensor, other: Tensor) -> Tensor:
        return self.distance(offset, torch.hypot(sigma, other))

    def to_torch(self, loc: Tensor, scale: Tensor) -> Distribution:
        return distributions.Normal(loc, scale)

    @property
    def constant(self) -> float:
        return math.log(2 * math.pi) / 2


@dataclass(frozen=True)
class Laplace(Family):
    """value(z) = |z|, constant = log 2."""

    name: ClassVar[str] = "laplace"

    @property
    def variance(self) -> float:
        return 2.0

    @property
    def information(self) -> tuple[float, float]:
        return (1.0, 1.0)

    def value(self, z: Tensor, inverse: Tensor) -> Tensor:
        return z.abs()

    def slope(self, z: Tensor) -> Tensor:
        return z.sign()

    def cdf(self, z: Tensor) -> Tensor:
        half = 0.5 * torch.exp(-z.abs())
        return torch.where(z < 0, half, 1 - half)

    def quantile(self, p: Tensor) -> Tensor:
        return torch.log(2 * p)

    def draw(self, like: Tensor) -> Tensor:
        return torch.empty_like(like).exponential_() - torch.empty_like(like).exponential_()

    def distance(self, offset: Tensor, sigma: Tensor) -> Tensor:
        offset = offset.abs()
        return offset + sigma * torch.exp(-offset / sigma)

    def distance_of_two(self, offset: Tensor, sigma: Tensor, other: Tensor) -> Tensor:
        """Return |offset| + (g(sigma) - g(other)) / (sigma^2 - other^2) with g(b) = b^3 exp(-|offset| / b).

        Where the two are near each other the difference is the integral of g' between them, by Gauss and Legendre.
        """
        offset, total = offset.abs(), sigma + other
        near = (sigma - other).abs() < 0.1 * total
        apart = torch.where(near, 2 * other + offset, sigma)  # any number that is not near
        quotient = (apart**3 * torch.exp(-offset / apart) - other**3 * torch.exp(-offset / other)) / (apart - other)
        nodes, weights = np.polynomial.legendre.leggauss(8)
        mean = torch.zeros_like(total)
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            between = total / 2 + node / 2 * (sigma - other)
            mean = mean + weight / 2 * (3 * between.square() + between * offset) * torch.exp(-offset / between)
        return offset + torch.where(near, mean, quotient) / total

    def to_torch(self, loc: Tensor, scale: Tensor) -> Distribution:
        return distributions.Laplace(loc, scale)

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

    @property
    def variance(self) -> float:
        return self.df / (self.df - 2) if self.df > 2 else math.inf

    @property
    def information(self) -> tuple[float, float]:
        return (self.df + 1) / (self.df + 3), 2 * self.df / (self.df + 3)

    def value(self, z: Tensor, inverse: Tensor) -> Tensor:
        return (self.df + 1) / 2 * torch.log1p(z.square() / self.df)

    @property
    def has_mean(self) -> bool:
        return self.df > 1

    def slope(self, z: Tensor) -> Tensor:
        return (self.df + 1) * z / (self.df + z.square())

    def cdf(self, z: Tensor) -> Tensor:
        result: Tensor = _DistributionOfT.apply(z, self)
        return result

    def quantile(self, p: Tensor) -> Tensor:
        return student.quantile(p, self.df)

    def draw(self, like: Tensor) -> Tensor:
        half = torch.full_like(like, self.df / 2)
        return torch.randn_like(like) * torch.rsqrt(torch._standard_gamma(half) / half)

    def to_torch(self, loc: Tensor, scale: Tensor) -> Distribution:
        return distributions.StudentT(self.df, loc, scale)

    @property
    def constant(self) -> float:
        return student.constant(self.df)


class _DistributionOfT(torch.autograd.Function):
    """The distribution function of Student's t, whose derivative is its density."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, family: StudentT) -> Tensor:
        ctx.family = family
        ctx.save_for_backward(z)
        return student.cdf(z, family.df)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        return gradient * ctx.family.density(z), None


@dataclass(frozen=True)
class Logistic(Family):
    """value(z) = |z| + 2 log(1 + exp(-|z|)), constant = 0. Its tails fall as Laplace's, and it is smooth at 0."""

    name: ClassVar[str] = "logistic"

    @property
    def variance(self) -> float:
        return math.pi**2 / 3

    @property
    def information(self) -> tuple[float, float]:
        return (1 / 3, (3 + math.pi**2) / 9)

    def value(self, z: Tensor, inverse: Tensor) -> Tensor:
        return -functional.logsigmoid(z) - functional.logsigmoid(-z)

    def slope(self, z: Tensor) -> Tensor:
        return torch.tanh(z / 2)

    def cdf(self, z: Tensor) -> Tensor:
        return torch.sigmoid(z)

    def quantile(self, p: Tensor) -> Tensor:
        return torch.logit(p)

    def draw(self, like: Tensor) -> Tensor:
        # Two exponentials' ratio: exact in both tails, where the logit of a uniform number has the steps of that.
        return torch.empty_like(like).exponential_().log() - torch.empty_like(like).exponential_().log()

    def to_torch(self, loc: Tensor, scale: Tensor) -> Distribution:
        uniform = distributions.Uniform(torch.zeros_like(loc), torch.ones_like(loc))
        steps = [distributions.SigmoidTransform().inv, distributions.AffineTransform(loc, scale)]
        return distributions.TransformedDistribution(uniform, steps)

    @property
    def constant(self) -> float:
        return 0.0


@dataclass(frozen=True)
class DiscretisedLogistic(Family):
    """The mass that a logistic distribution has in the bin around a discrete target: that of PixelCNN++.

    With its distribution function F, and half a bin h = bin_width / (2 sigma kappa)::

        -log(F(z + h) - F(z - h)) = softplus(z - h) + softplus(-z - h) - log(1 - exp(-2 h))

    where no term cancels another: it is exact in the far tails, and where one bin holds nearly all of the mass.

    Args:
        bin_width: delta, the distance of neighbouring values of the target, in the target's units.

    Raises:
        TypeError: bin_width is not a number.
        ValueError: bin_width is not within 1e-30 to 1e30.

    Source: Salimans, Karpathy, Chen and Kingma, "PixelCNN++", 2017, without its clamps.
    """

    name: ClassVar[str] = "discretised_logistic"
    log_sigma: ClassVar[bool] = False
    bin_width: float

    @property
    def variance(self) -> None:
        return None

    @property
    def information(self) -> None:
        return None

    def __post_init__(self) -> None:
        checks.number("bin_width", self.bin_width, 1e-30)
        if self.bin_width > 1e30:
            raise ValueError(f"bin_width must be at most 1e30, got {self.bin_width}")

    @property
    def parameter(self) -> float:
        return float(self.bin_width)

    def draw(self, like: Tensor) -> Tensor:
        return Logistic().draw(like)

    def value(self, z: Tensor, inverse: Tensor) -> Tensor:
        half = self.bin_width / 2 * inverse
        outside = -functional.logsigmoid(half - z) - functional.logsigmoid(half + z)
        return outside - torch.log(-torch.expm1(-2 * half))

    @property
    def constant(self) -> float:
        return 0.0


FAMILIES: dict[str, type[Family]] = {
    family.name: family for family in (Gaussian, Laplace, StudentT, Logistic, DiscretisedLogistic)
}
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
