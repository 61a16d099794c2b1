"""Intervals against scipy, published worked examples, and exact coverage by enumeration."""

from itertools import product
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from edgepack.verify.statistics import paired_drop, wilson_interval


def _pairs(only_a: int, only_b: int, both: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([True, False, True, False], [only_a, only_b, both, neither])
    b = np.repeat([False, True, True, False], [only_a, only_b, both, neither])
    return a, b


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy(case: tuple[int, int]) -> None:
    successes, n = case
    theirs = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    ours = wilson_interval(successes, n)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.value == successes / n


@pytest.mark.parametrize("successes, n", [(0, 7), (7, 7), (1, 1), (0, 1)])
def test_wilson_at_the_ends_reaches_the_end_and_has_width(successes: int, n: int) -> None:
    interval = wilson_interval(successes, n)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.high - interval.low > 0.2


@pytest.mark.parametrize("successes, n", [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="not a proportion"):
        wilson_interval(successes, n)


@pytest.mark.parametrize(
    "only_a, only_b, both, neither, low, high",
    [
        # R package statpsych, ci.prop.ps(.05, 12, 4, 26, 6), by D. G. Bonett, documented result.
        (26, 4, 6, 12, 0.2548067, 0.6251933),
        # D. G. Bonett's published R functions, CIpropWS(.05, 26, 4, 40), documented result.
        (26, 4, 5, 5, 0.3126438, 0.7349752),
    ],
)
def test_paired_interval_equals_the_authors_worked_examples(
    only_a: int, only_b: int, both: int, neither: int, low: float, high: float
) -> None:
    found = paired_drop(*_pairs(only_a, only_b, both, neither))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)


def test_paired_interval_covers_in_every_case_of_a_small_multinomial() -> None:
    # Exact, no simulation: every outcome of 40 pairs, weighted by its probability.
    n = 40
    for p_a, p_b in [(0.05, 0.05), (0.10, 0.02), (0.20, 0.10), (0.02, 0.01)]:
        covered = total = 0.0
        for only_a, only_b in product(range(n + 1), repeat=2):
            rest = n - only_a - only_b
            if rest < 0:
                continue
            ways = factorial(n) // (factorial(only_a) * factorial(only_b) * factorial(rest))
            weight = ways * p_a**only_a * p_b**only_b * (1 - p_a - p_b) ** rest
            total += weight
            if weight > 1e-9:
                interval = paired_drop(*_pairs(only_a, only_b, rest, 0))
                covered += weight * (interval.low <= p_a - p_b <= interval.high)
        assert total == pytest.approx(1)
        assert covered > 0.94, (p_a, p_b, covered)


def test_equal_results_have_no_drop_but_an_interval_that_shrinks_with_samples() -> None:
    same = np.ones(50, bool)
    few, many = paired_drop(same, same), paired_drop(np.tile(same, 40), np.tile(same, 40))
    assert few.value == many.value == 0
    assert few.low == -few.high < 0
    assert many.high < few.high / 10


def test_drop_is_positive_when_the_second_is_worse() -> None:
    assert paired_drop(np.array([True] * 4), np.array([True, True, True, False])).value == 0.25


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=300))
def test_paired_estimate_is_inside_its_interval_and_antisymmetric(pairs: list[tuple[bool, bool]]) -> None:
    a, b = (np.array(column) for column in zip(*pairs, strict=True))
    forth, back = paired_drop(a, b), paired_drop(b, a)
    assert -1 <= forth.low <= forth.value <= forth.high <= 1
    assert forth.value == pytest.approx(a.mean() - b.mean())
    assert (back.value, back.low, back.high) == pytest.approx((-forth.value, -forth.high, -forth.low))


def test_no_samples_or_unequal_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="not paired"):
        paired_drop(np.array([], bool), np.array([], bool))
    with pytest.raises(ValueError, match="not paired"):
        paired_drop(np.ones(3, bool), np.ones(4, bool))
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(1, 2, confidence=95)
