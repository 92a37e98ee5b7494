"""What mixture_nll minimises and what it multiplies gradients by, as the one object that every backend takes."""

from __future__ import annotations

from dataclasses import dataclass

from mdnkernels import checks
from mdnkernels.mixture.families import Family

GRADIENTS = ("likelihood", "natural")


@dataclass(frozen=True)
class Objective:
    """How a position's loss follows from e_m = log alpha_m + log phi_m, and the factors of its gradients.

    assign: "likelihood", -temperature logsumexp(e / temperature); "best", -max e; "given", -e of an assigned component.
    power, loc_factor, scale_factor, natural: the gradient of loc is multiplied by loc_factor sigma^power, and by
    kappa^2 where natural; that of a raw scale by scale_factor sigma^power, over its observed dimensions where natural.
    """

    assign: str = "likelihood"
    temperature: float = 1.0
    power: float = 0.0
    loc_factor: float = 1.0
    scale_factor: float = 1.0
    natural: bool = False

    @property
    def options(self) -> tuple[str, float, float, float, float, bool]:
        """Its fields, as the kernels take them."""
        return self.assign, self.temperature, self.power, self.loc_factor, self.scale_factor, self.natural

    @property
    def rescales(self) -> bool:
        """Whether gradients have a factor."""
        return self.power != 0


LIKELIHOOD = Objective()


def check_temperature(temperature: float) -> None:
    """Check that a temperature is finite and above 0."""
    checks.number("temperature", temperature, 0.0)
    if temperature == 0:
        raise ValueError("temperature must be above 0; its limit, the winner alone, is mixture_nll(assign='best')")


def objective_of(
    family: Family, *, assign: str, temperature: float, beta: float, gradient: str, correlated: bool
) -> Objective:
    """Check a caller's options and return what they mean.

    correlated: whether dimensions depend on one another. Raises TypeError and ValueError as `mixture_nll` says.
    """
    if assign == "likelihood" and temperature == 1.0 and beta == 0.0 and gradient == "likelihood":
        return LIKELIHOOD  # in most calls, of which small ones would notice the checks
    check_temperature(temperature)
    if temperature != 1 and assign != "likelihood":
        raise ValueError(f"temperature={temperature} tempers the likelihood, and assign={assign!r} has none: leave it")
    checks.number("beta", beta, 0.0)
    if beta > 1:
        raise ValueError(f"beta must lie in [0, 1], got {beta}")
    checks.choice("gradient", gradient, GRADIENTS)
    if gradient == "likelihood":
        return Objective(assign, float(temperature), 2 * float(beta))
    if beta != 0:
        raise ValueError(f"gradient='natural' and beta={beta} both weigh by sigma: choose one")
    if correlated:
        raise ValueError("gradient='natural' is that of independent dimensions, and tril was given: leave one out")
    if family.information is None:
        raise ValueError(f"gradient='natural' needs a family whose information falls as sigma^-2, got {family}")
    of_loc, of_scale = family.information
    return Objective(assign, float(temperature), 2.0, 1 / of_loc, 1 / of_scale, True)
