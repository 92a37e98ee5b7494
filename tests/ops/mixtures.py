"""Mixtures of every family as distributions, for the tests of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import mdnkernels
from mdnkernels import DiscretisedLogistic, Family, Laplace, Mixture, StudentT

FAMILIES: tuple[Family, ...] = (mdnkernels.Gaussian(), Laplace(), mdnkernels.Logistic(), StudentT(df=3.5))
DISCRETE = DiscretisedLogistic(bin_width=0.5)
M, C = 3, 4
CORRELATED: dict[str, Any] = {"block_size": 2}


def parameters(
    *batch: int,
    tril: bool = False,
    spread: float = 1.0,
    dtype: torch.dtype = torch.float64,
    dims: int = C,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Draw logits, loc, scale and tril with their channels last; tril: of pairs."""
    generator = torch.Generator().manual_seed(seed)
    counts = {"logits": M, "loc": M * dims, "scale": M * dims, **({"tril": M * dims // 2} if tril else {})}
    drawn = {
        name: torch.randn(*batch, count, generator=generator, dtype=torch.float64) for name, count in counts.items()
    }
    drawn["loc"] = spread * drawn["loc"]
    return {name: value.to(dtype) for name, value in drawn.items()}


def mixture(family: str | Family, *batch: int, tril: bool = False, **drawn: Any) -> Mixture:
    """Make a mixture of so large a batch; tril: of correlated pairs."""
    given = parameters(*batch, tril=tril, **drawn)
    return Mixture(**given, **(CORRELATED if tril else {}), family=family, dim=-1)


def by_hand(one: Mixture, value: Tensor) -> Tensor:
    """Return log alpha_m + log phi_m (..., M) at value (..., C), from the formulas and nothing of the library's."""
    sigma, loc = one.component_scale, one.component_loc
    z = (value.unsqueeze(-2) - loc) / sigma
    if one.tril is not None:
        entries = one.tril.unflatten(-1, (M, -1))
        z = torch.stack([each for k in range(C // 2) for each in _pair(z, entries, k)], -1)
    name, df = one.family.name, one.family.parameter
    if name == "gaussian":
        log_phi = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    elif name == "laplace":
        log_phi = torch.distributions.Laplace(0.0, 1.0).log_prob(z)
    elif name == "student_t":
        log_phi = torch.distributions.StudentT(df).log_prob(z)
    else:
        log_phi = -z - 2 * torch.log1p(torch.exp(-z))
    return torch.log_softmax(one.logits, -1) + (log_phi - sigma.log()).sum(-1)


def _pair(z: Tensor, entries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return z[..., 2 * k], z[..., 2 * k + 1] + entries[..., k] * z[..., 2 * k]
