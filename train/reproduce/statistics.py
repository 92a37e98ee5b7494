"""Means over seeds with their intervals."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean over seeds, and half the width of its interval of 95 % confidence by Student's t."""

    mean: float
    half: float
    """Infinite for a single seed, whose spread nothing tells; nan, as the mean, where a value is not defined."""
    seeds: int

    @property
    def above_zero(self) -> bool:
        """Return whether the whole interval lies above 0."""
        return self.mean - self.half > 0

    @property
    def below_zero(self) -> bool:
        """Return whether the whole interval lies below 0."""
        return self.mean + self.half < 0

    def text(self, digits: int = 1, *, sign: bool = False) -> str:
        """Return "mean ± half" with so many digits; without a half where there is one seed, "none" for nan."""
        if math.isnan(self.mean):
            return "none"
        mean = f"{self.mean:{'+' if sign else ''}.{digits}f}"
        return mean if math.isinf(self.half) else f"{mean} ± {self.half:.{digits}f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of independent values, at least one, and its interval: mean ± t s / sqrt(n).

    s is the standard deviation with n - 1 in its denominator, t the quantile of Student's distribution with n - 1
    degrees of freedom that holds CONFIDENCE of it between -t and t.
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, math.inf, count)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Estimate(mean, student_t_quantile(count - 1) * spread / math.sqrt(count), count)


def paired_difference(ones: Sequence[float], others: Sequence[float]) -> Estimate:
    """Return the mean difference of two networks that met the same seeds, and its interval, of the differences.

    What a seed does to both networks alike, such as its pictures, cancels. Raises ValueError for other lengths.
    """
    return estimate([one - other for one, other in zip(ones, others, strict=True)])


@functools.cache
def student_t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """Return t with probability `confidence` between -t and t, of Student's distribution; to five digits at least.

    With t = sqrt(degrees) tan(angle) the density becomes cos(angle)^(degrees - 1), which is summed over (0, pi / 2).
    """
    edges = np.linspace(0.0, math.pi / 2, 400_001)
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.concatenate([[0.0], np.cumsum(np.cos(middles) ** (degrees - 1))])
    angle = float(np.interp(confidence, below / below[-1], edges))
    return math.sqrt(degrees) * math.tan(angle)
