"""k-means with missing values against brute force and drawn clusters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mdnkernels.mixture.clusters import k_means


def cost_of(points: np.ndarray, observed: np.ndarray, labels: tuple[int, ...], clusters: int) -> float:
    """Return the cost of one way to label the points, by loops."""
    dims = points.shape[1]
    total = 0.0
    for k in range(clusters):
        rows = [n for n, label in enumerate(labels) if label == k]
        for n in rows:
            terms = []
            for d in range(dims):
                if observed[n, d]:
                    mean = np.mean([points[m, d] for m in rows if observed[m, d]])
                    terms.append((points[n, d] - mean) ** 2)
            total += sum(terms) * dims / len(terms)
    return total


@pytest.mark.parametrize("missing", [False, True])
def test_cost_is_the_least_of_all_labellings(missing):
    random = np.random.default_rng(2)
    for seed in range(5):
        points = random.normal(size=(8, 2)) + 4 * random.integers(0, 2, (8, 1))
        observed = random.random((8, 2)) < (0.8 if missing else 2)
        observed[~observed.any(1), 0] = True
        found = k_means(points, observed, clusters=2, seed=seed, restarts=10)
        best = min(cost_of(points, observed, labels, 2) for labels in itertools.product(range(2), repeat=8))
        # With missing values the mean does not weigh points by their share, and Lloyd's steps may stop beside the best.
        assert found.cost == pytest.approx(best, rel=1e-9 if not missing else 0.1)
        assert cost_of(points, observed, tuple(found.labels), 2) == pytest.approx(found.cost, rel=1e-9)


def test_drawn_clusters_are_found_with_two_thirds_of_the_values_missing():
    random = np.random.default_rng(0)
    means = np.array([[0.0] * 6, [5.0] * 6, [0.0, 5.0] * 3])
    truth = random.integers(0, 3, 3000)
    points = means[truth] + random.normal(0, 0.3, (3000, 6))
    observed = random.random(points.shape) < 1 / 3
    found = k_means(np.where(observed, points, np.nan), observed, clusters=3, seed=1)
    order = [0, 2, 1]  # ascending sums
    # A point of one or two values may belong to either of two clusters, and pulls the centre that takes it.
    np.testing.assert_allclose(found.centres, means[order], atol=0.15)
    assert ((found.labels == -1) == ~observed.any(1)).all()
    enough = observed.sum(1) >= 4
    assert (found.labels[enough] == np.array([0, 2, 1])[truth][enough]).mean() > 0.99


def test_a_sample_finds_the_centres_of_all_points():
    random = np.random.default_rng(3)
    points = np.concatenate([random.normal(m, 0.2, (n, 2)) for m, n in ((1, 300), (2, 5000), (3, 300))])
    few, all_of_them = k_means(points, clusters=3, sample=500), k_means(points, clusters=3, sample=10**6)
    np.testing.assert_allclose(few.centres, all_of_them.centres, atol=0.02)
    assert (few.labels == all_of_them.labels).mean() > 0.99


def test_fewer_different_points_than_clusters_give_as_many_as_there_are():
    points = np.repeat([[1.0, 2.0], [3.0, 4.0]], 5, axis=0)
    found = k_means(points, clusters=4)
    np.testing.assert_array_equal(found.centres, [[1, 2], [3, 4]])
    assert found.labels.tolist() == [0] * 5 + [1] * 5
    assert found.cost == 0


def test_same_seed_gives_the_same_bits_and_another_order_of_points_the_same_clusters():
    random = np.random.default_rng(5)
    points = np.concatenate([random.normal(m, 0.2, (50, 3)) for m in (0, 3, 9)])
    one, again = k_means(points, clusters=3, seed=7), k_means(points, clusters=3, seed=7)
    assert one.centres.tobytes() == again.centres.tobytes()
    shuffled = random.permutation(len(points))
    other = k_means(points[shuffled], clusters=3, seed=8)
    np.testing.assert_allclose(other.centres, one.centres)
    assert (other.labels == one.labels[shuffled]).all()


def test_a_dimension_nobody_observed_in_a_cluster_gets_the_mean_of_all():
    points = np.array([[0.0, 7.0], [0.1, 9.0], [10.0, 0.0]])
    observed = np.array([[True, True], [True, True], [True, False]])
    found = k_means(points, observed, clusters=2)
    np.testing.assert_allclose(found.centres, [[0.05, 8.0], [10.0, 8.0]])


@pytest.mark.parametrize(
    ("points", "options", "said"),
    [
        (np.zeros(3), {}, r"points must be \(N, C\)"),
        (np.zeros((3, 0)), {}, "C at least 1"),
        (np.zeros((3, 2)), {"observed": np.ones((3, 1), bool)}, "observed must be bool of points' shape"),
        (np.zeros((3, 2)), {"observed": np.ones((3, 2))}, "got float64"),
        (np.zeros((3, 2)), {"clusters": 0}, "clusters must be at least 1, got 0"),
        (np.zeros((3, 2)), {"restarts": 0}, "restarts must be at least 1"),
        (np.zeros((3, 2)), {"observed": np.zeros((3, 2), bool)}, "got none"),
        (np.full((3, 2), np.nan), {}, "finite where they are observed"),
    ],
)
def test_bad_arguments_are_named(points, options, said):
    with pytest.raises(ValueError, match=said):
        k_means(points, **{"clusters": 2, **options})
