"""k-means of regression targets of which some dimensions may be missing.

Source: Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", 2007; Dixon, "Pattern Recognition with
Partly Missing Data", 1979 (the distance over what is observed).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Clusters(NamedTuple):
    """K clusters of N points in C dimensions, in ascending order of the sum of a centre's coordinates."""

    centres: np.ndarray
    """(K, C), float64; K is less than was asked for where there are fewer different points."""
    labels: np.ndarray
    """(N,), int64: the cluster of each point, -1 for a point of which nothing is observed."""
    cost: float
    """Sum of the squared distances between points and the centres of their clusters."""


def k_means(
    points: np.ndarray,
    observed: np.ndarray | None = None,
    *,
    clusters: int,
    seed: int = 0,
    restarts: int = 4,
    steps: int = 100,
    sample: int = 20_000,
) -> Clusters:
    """Return the clusters of least cost that `restarts` runs of k-means find, each started by k-means++.

    The squared distance of a point to a centre is the sum over the point's observed dimensions, times C over their
    number. A centre's coordinate is the mean of what the points of its cluster have observed of it; a dimension that
    none of them has observed gets the mean over all points. The result depends on the arguments alone: the same bits
    for any number of threads.

    Args:
        points: (N, C), finite where observed.
        observed: (N, C), bool; None: everything is.
        clusters: K, at least 1.
        seed: of the random starts.
        restarts: runs, at least 1.
        steps: most updates of the centres in a run, which ends where none changes.
        sample: points that the runs look at, drawn by `seed` where there are more. The best centres are then moved once
            to the means of all of their points.

    Raises:
        ValueError: a wrong shape, a count below 1, nothing observed, or an observed value that is not finite.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"points must be (N, C) with C at least 1, got shape {points.shape}")
    seen = np.ones(points.shape, bool) if observed is None else np.asarray(observed)
    if seen.shape != points.shape or seen.dtype != bool:
        raise ValueError(f"observed must be bool of points' shape {points.shape}, got {seen.dtype} {seen.shape}")
    for name, value in (("clusters", clusters), ("restarts", restarts), ("sample", sample)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not np.isfinite(points[seen]).all():
        raise ValueError("points must be finite where they are observed")
    rows = np.flatnonzero(seen.any(1))
    if len(rows) == 0:
        raise ValueError("k_means needs points of which something is observed, got none")
    data = _Data(np.where(seen, points, 0.0)[rows], seen[rows])
    random = np.random.default_rng(seed)
    some = data if len(rows) <= sample else data.at(np.sort(random.choice(len(rows), sample, replace=False)))
    runs = (_run(some, clusters, steps, random) for _ in range(restarts))
    centres, _ = min(runs, key=lambda run: run[1])
    if some is not data:
        centres = data.moved(data.nearest(centres)[0])
    centres = centres[np.argsort(centres.sum(1), kind="stable")]
    labels = np.full(len(points), -1, np.int64)
    labels[rows], distance = data.nearest(centres)
    return Clusters(centres, labels, float(distance.sum()))


class _Data:
    """Points with something observed, missing values at 0, and what every step needs of them."""

    def __init__(self, points: np.ndarray, seen: np.ndarray) -> None:
        self.points, self.seen = points, seen
        self.share = points.shape[1] / seen.sum(1)  # of a distance over all dimensions to that over the observed
        counts = seen.sum(0)
        self.mean = points.sum(0) / np.maximum(counts, 1)

    def at(self, rows: np.ndarray) -> _Data:
        """Return some of the points."""
        return _Data(self.points[rows], self.seen[rows])

    def distances(self, centre: np.ndarray) -> np.ndarray:
        """Return the squared distance (N,) of each point to one centre (C,)."""
        difference = (self.points - centre) * self.seen
        return np.einsum("nc,nc->n", difference, difference) * self.share  # no BLAS, whose bits depend on its threads

    def nearest(self, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest centre of each point, of equal ones the first, and the squared distance to it."""
        best, labels = self.distances(centres[0]), np.zeros(len(self.points), np.int64)
        for k, centre in enumerate(centres[1:], 1):
            distance = self.distances(centre)
            nearer = distance < best
            best, labels = np.where(nearer, distance, best), np.where(nearer, k, labels)
        return labels, best

    def moved(self, labels: np.ndarray) -> np.ndarray:
        """Return the means (K, C) of the clusters that have a point, in the order of their labels."""
        present, labels = np.unique(labels, return_inverse=True)
        count = len(present)
        result = np.empty((count, self.points.shape[1]))
        for d in range(self.points.shape[1]):
            sums = np.bincount(labels, self.points[:, d], count)
            seen = np.bincount(labels, self.seen[:, d], count)
            result[:, d] = np.where(seen > 0, sums / np.maximum(seen, 1), self.mean[d])
        return result


def _run(data: _Data, clusters: int, steps: int, random: np.random.Generator) -> tuple[np.ndarray, float]:
    """Return the centres of one run, each with a point that is nearest to it, and their cost."""
    centres = _seeds(data, clusters, random)
    labels, distance = data.nearest(centres)
    for _ in range(steps):
        centres = data.moved(labels)
        before, (labels, distance) = labels, data.nearest(centres)
        if np.array_equal(before, labels):
            break
    return centres[np.unique(labels)], float(distance.sum())


def _seeds(data: _Data, clusters: int, random: np.random.Generator) -> np.ndarray:
    """Return at most `clusters` different points as first centres, each drawn by its squared distance to those before.

    A missing coordinate of such a point is the mean over all points.
    """
    filled = np.where(data.seen, data.points, data.mean)
    centres = [filled[random.integers(len(filled))]]
    distance = data.distances(centres[0])
    while len(centres) < clusters and distance.sum() > 0:
        row = np.searchsorted(np.cumsum(distance), random.random() * distance.sum(), side="right")
        centres.append(filled[min(row, len(filled) - 1)])
        distance = np.minimum(distance, data.distances(centres[-1]))
    return np.stack(centres)
