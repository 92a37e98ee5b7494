"""What is known of each dimension of a mixture by itself: its distribution function, its quantiles, its CRPS.

Every function takes weights (*batch, M) and loc and sigma (*batch, M, C), and goes through the components one by one,
so that nothing has a size for both samples and components.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mdnkernels.mixture import roots
from mdnkernels.mixture.families import Family


def _components(weights: Tensor, loc: Tensor, sigma: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Give the weight (*batch, 1) and the loc and sigma (*batch, C) of each component."""
    for m in range(weights.shape[-1]):
        yield weights[..., m, None], loc[..., m, :], sigma[..., m, :]


def cdf(
    value: Tensor, weights: Tensor, loc: Tensor, sigma: Tensor, family: Family, side: Tensor | float = 1.0
) -> Tensor:
    """Return the distribution function of each dimension at value (*samples, *batch, C).

    side: 1, or -1 where the upper tail is wanted, 1 - cdf.
    """
    total = torch.zeros_like(value, dtype=loc.dtype)
    for weight, centre, spread in _components(weights, loc, sigma):
        total = total + weight * family.cdf(side * (value - centre) / spread)
    return total


def _density(value: Tensor, weights: Tensor, loc: Tensor, sigma: Tensor, family: Family) -> Tensor:
    total = torch.zeros_like(value, dtype=loc.dtype)
    for weight, centre, spread in _components(weights, loc, sigma):
        total = total + weight * family.density((value - centre) / spread) / spread
    return total


def icdf(probability: Tensor, weights: Tensor, loc: Tensor, sigma: Tensor, family: Family) -> Tensor:
    """Return the quantiles of each dimension at probability (*samples, *batch, C)."""
    probability = probability.to(loc.dtype)
    mixture = (weights, loc, sigma)
    with torch.no_grad():
        quantile = _search(probability, *mixture, family)
    if not torch.is_grad_enabled() or not any(each.requires_grad for each in (probability, *mixture)):
        return quantile
    # F(x; phi) = p, so dx = (dp - dF) / density, where the density is not 0.
    known = torch.where(quantile.isfinite(), quantile, 0.0)
    with torch.no_grad():
        density = _density(known, *mixture, family)
    change = probability - cdf(known, *mixture, family)
    change = torch.where(quantile.isfinite() & (density > 0), (change - change.detach()) / density, 0.0)
    return quantile + change


def _search(probability: Tensor, weights: Tensor, loc: Tensor, sigma: Tensor, family: Family) -> Tensor:
    """Return quantiles by the logarithm of the nearer tail, between the smallest and largest of the components'."""
    upper = probability > 0.5
    tail = torch.where(upper, 1 - probability, probability)
    side = torch.where(upper, -1.0, 1.0).to(loc.dtype)
    standard = side * family.quantile(tail)
    low, high = torch.full_like(standard, torch.inf), torch.full_like(standard, -torch.inf)
    for _, centre, spread in _components(weights, loc, sigma):
        own = centre + spread * standard
        low, high = torch.minimum(low, own), torch.maximum(high, own)

    def evaluate(x: Tensor) -> roots.Evaluation:
        here, density = cdf(x, weights, loc, sigma, family, side), _density(x, weights, loc, sigma, family)
        newton = x - side * (torch.log(here) - torch.log(tail)) * here / density
        return side * (here - tail), newton, torch.finfo(loc.dtype).eps * (x.abs() + here / density)

    return roots.between(low, high, evaluate)


def crps(value: Tensor, weights: Tensor, loc: Tensor, sigma: Tensor, family: Family) -> Tensor:
    """Return E |X - value| - E |X - X'| / 2 of each dimension, (*samples, *batch, C)."""
    distance = torch.zeros_like(value, dtype=loc.dtype)
    within = torch.zeros_like(loc[..., 0, :])
    for weight, centre, spread in _components(weights, loc, sigma):
        distance = distance + weight * family.distance(value - centre, spread)
        offset, spread = centre.unsqueeze(-2) - loc, spread.unsqueeze(-2)
        of_pairs = family.distance_of_two(offset, spread.expand_as(sigma), sigma)
        within = within + weight * (weights.unsqueeze(-1) * of_pairs).sum(-2)
    return distance - within / 2
