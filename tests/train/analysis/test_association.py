"""Associations beside NumPy's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mdnkernels.train.analysis.association import pearson, rank_by_median


@pytest.mark.parametrize("seed", range(3))
def test_pearson_is_numpys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.normal(3, 2, 50), rng.integers(0, 4, 50)
    assert pearson(first, second) == pytest.approx(np.corrcoef(first, second)[0, 1])


def test_pearson_of_a_constant_or_of_one_object_is_not_defined() -> None:
    assert all(map(math.isnan, (pearson(np.ones(3), np.arange(3)), pearson(np.arange(1), np.arange(1)))))


def test_groups_are_ranked_by_their_median() -> None:
    assert rank_by_median(np.array([9.0, 1, 9, 2, 100]), np.array([0, 7, 0, 7, 3])).tolist() == [1, 0, 1, 0, 2]
