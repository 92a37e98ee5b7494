"""How much one grouping of objects says about a number, or about another grouping."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def variance_explained(scale: NDArray[np.float64], group: NDArray[np.int64]) -> tuple[float, float, float]:
    """Return the squared correlation ratio of log scale, its mean under chance, and Pearson with the group's rank.

    scale, group: (N,). The definitions, and what is nan, are those of `scales.scale_correlation`.
    """
    nan = float("nan")
    if len(scale) < 2:
        return nan, nan, nan
    names, member = np.unique(group, return_inverse=True)
    chance = (len(names) - 1) / (len(scale) - 1)
    y = np.log(scale)
    y = y - y.mean()
    variance = float(y @ y)
    # Rounding in the mean leaves a trace of variance in equal values.
    if scale.min() == scale.max() or variance == 0:
        return nan, chance, nan
    number = np.bincount(member)
    mean = np.bincount(member, weights=y) / number
    eta_squared = min(1.0, float(number @ mean**2) / variance)
    if len(names) == 1:
        return 0.0, chance, nan
    return eta_squared, chance, pearson(rank_by_median(scale, group), y)


def rank_by_median(scale: NDArray[np.float64], group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each object the rank 0, 1, ... of its group (N,) by the median scale (N,); equal ones by name."""
    names, member = np.unique(group, return_inverse=True)
    median = [np.median(scale[member == k]) for k in range(len(names))]
    rank: NDArray[np.int64] = np.argsort(np.argsort(median, kind="stable"))[member]
    return rank


def pearson(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the correlation of two numbers (N,) in [-1, 1]; nan of fewer than two objects, or where one is constant.

    r = sum (x - mean x) (y - mean y) / sqrt(sum (x - mean x)^2 sum (y - mean y)^2).
    """
    if len(first) < 2 or first.min() == first.max() or second.min() == second.max():
        return float("nan")
    x, y = first - first.mean(), second - second.mean()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def cramers_v(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Return the association of two groupings (N,), in [0, 1]; nan where one has a single group.

    V = sqrt(chi^2 / (N (min(groups of first, groups of second) - 1))), with chi^2 the sum of
    (observed - expected)^2 / expected over their table of counts; not corrected for chance.
    """
    if len(first) < 2:
        return float("nan")
    rows, row = np.unique(first, return_inverse=True)
    columns, column = np.unique(second, return_inverse=True)
    smaller = min(len(rows), len(columns))
    if smaller < 2:
        return float("nan")
    observed = np.bincount(row * len(columns) + column, minlength=len(rows) * len(columns))
    observed = observed.reshape(len(rows), len(columns)).astype(np.float64)
    expected = observed.sum(1, keepdims=True) * observed.sum(0, keepdims=True) / len(first)
    chi_squared = float(((observed - expected) ** 2 / expected).sum())
    return float(np.sqrt(chi_squared / (len(first) * (smaller - 1))))
