"""Intervals over seeds, against tables and formulas of textbooks."""

import math

import mpmath
import pytest

from mdnkernels.train.reproduce.statistics import estimate, paired_difference, student_t_quantile


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (9, 2.2622), (30, 2.0423)])
def test_quantiles_are_those_of_the_table(degrees: int, quantile: float) -> None:
    assert student_t_quantile(degrees) == pytest.approx(quantile, abs=5e-5)


@pytest.mark.parametrize("degrees", [1, 2, 5])
def test_the_distribution_holds_its_share_between_the_quantiles(degrees: int) -> None:
    t = student_t_quantile(degrees, 0.8)
    constant = mpmath.gamma((degrees + 1) / 2) / mpmath.gamma(degrees / 2) / mpmath.sqrt(degrees * mpmath.pi)
    share = mpmath.quad(lambda x: constant * (1 + x**2 / degrees) ** (-(degrees + 1) / 2), [-t, 0, t])
    assert float(share) == pytest.approx(0.8, abs=1e-5)


def test_an_interval_is_that_of_the_formula() -> None:
    one = estimate([1.0, 2.0, 6.0])  # mean 3, standard deviation sqrt(7)
    assert (one.mean, one.seeds) == (3.0, 3)
    assert one.half == pytest.approx(4.30265 * math.sqrt(7) / math.sqrt(3), abs=1e-3)
    assert not one.above_zero
    assert not one.below_zero


def test_what_a_seed_does_to_both_networks_alike_cancels() -> None:
    gain = paired_difference([12.0, 31.1, 52.0], [10.0, 29.0, 50.0])
    assert gain.mean == pytest.approx(2.0333, abs=1e-4)
    assert gain.above_zero
    assert gain.half < 0.15
    assert paired_difference([10.0, 29.0], [12.0, 31.1]).below_zero
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1.0], [1.0, 2.0])


def test_one_seed_shows_nothing() -> None:
    one = estimate([5.0])
    assert math.isinf(one.half)
    assert not one.above_zero
    assert one.text() == "5.0"


def test_texts_say_mean_and_half() -> None:
    assert estimate([1.0, 2.0, 6.0]).text(2, sign=True) == "+3.00 ± 6.57"
    assert estimate([math.nan, 1.0]).text() == "none"
