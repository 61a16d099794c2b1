"""Latency statistics against scipy, exact order statistics and simulated machines whose truth is known."""

import time
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binom, multivariate_normal, norm, rankdata

from edgepack.latency import statistics
from edgepack.latency.statistics import (
    Histogram,
    autocorrelation,
    block_length,
    fewest_samples,
    histogram,
    is_coarse,
    quantiles,
    ratio,
    ratio_quantile,
    settled_after,
    timer_tick,
)

TIMES = hnp.arrays(np.float64, st.integers(1, 400), elements=st.floats(0, 1e9))


def _ar1(rng: np.random.Generator, n: int, rho: float) -> np.ndarray:
    """A stationary AR(1) with standard normal marginals."""
    noise = rng.normal(size=n) * np.sqrt(1 - rho**2)
    series = np.empty(n)
    series[0] = rng.normal()
    for i in range(1, n):
        series[i] = rho * series[i - 1] + noise[i]
    return series


def _machine(rng: np.random.Generator, n: int, slower: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Two interleaved artifacts on a noisy machine: common correlated wander, own jitter, rare spikes of 10x."""
    wander = 1 + 0.05 * np.abs(_ar1(rng, n, 0.6))
    own = [np.exp(0.01 * np.abs(rng.normal(size=n))) for _ in range(2)]
    spikes = [np.where(rng.random(n) < 0.02, rng.uniform(2, 10, n), 1) for _ in range(2)]
    return 1e6 * wander * own[0] * spikes[0], 1e6 * slower * wander * own[1] * spikes[1]


@pytest.mark.parametrize("q, needed", [(0.5, 20), (0.9, 100), (0.99, 1000), (0.25, 40), (0.1, 100)])
def test_fewest_samples_leave_ten_on_the_rarer_side(q: float, needed: int) -> None:
    assert fewest_samples(q) == needed


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_with_that_many_effective_samples_an_order_statistic_bounds_the_quantile(q: float) -> None:
    # The largest of n bounds quantile q with 97.5 % as soon as q^n <= 0.025; lag-1 0.46 thins n by 2.7.
    effective = int(fewest_samples(q) * (1 - 0.46) / (1 + 0.46))
    assert effective >= int(log(0.025) / log(q))
    assert binom.cdf(effective - 1, effective, q) >= 0.97


def test_a_quantile_with_too_few_samples_is_not_given() -> None:
    series = np.random.default_rng(0).lognormal(size=300)
    p50, p90, p99 = quantiles(series, (0.5, 0.9, 0.99))
    assert p50 is not None
    assert p90 is not None
    assert p99 is None
    assert quantiles(series[:19], (0.5,)) == (None,)


def test_quantiles_equal_numpy_and_lie_in_their_intervals() -> None:
    series = np.random.default_rng(0).lognormal(size=1500)
    for q, found in zip((0.5, 0.9, 0.99), quantiles(series, (0.5, 0.9, 0.99)), strict=True):
        assert found is not None
        assert found.value == pytest.approx(np.percentile(series, 100 * q))
        assert found.low < found.value < found.high


@pytest.mark.parametrize("q, n", [(0.5, 1000), (0.9, 100), (0.99, 1500)])
def test_the_levels_of_an_interval_are_the_exact_ranks_of_the_binomial(q: float, n: int) -> None:
    low, high = statistics._order_levels(n, q)
    r, s = round(low * (n + 1)), round(high * (n + 1))
    # The r-th smallest is above the quantile when fewer than r are below: at most 2.5 %, r the largest such (David, Nagaraja 7.1).
    assert binom.cdf(r - 1, n, q) <= 0.025 < binom.cdf(r, n, q)
    assert binom.sf(s - 1, n, q) <= 0.025 < binom.sf(s - 2, n, q)


def test_independent_samples_get_the_interval_of_exact_order_statistics() -> None:
    n, q = 1000, 0.5
    series = np.sort(np.random.default_rng(3).lognormal(size=n))
    low, high = series[int(binom.ppf(0.025, n, q)) - 1], series[int(binom.ppf(0.975, n, q))]
    (found,) = quantiles(np.random.default_rng(4).permutation(series), (q,))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.03)


def _coverage(n: int, rho: float, qs: tuple[float, ...], trials: int) -> list[float]:
    """How often intervals of lognormal series hold the true quantile; one that is not given does not."""
    rng = np.random.default_rng(11)
    found = [quantiles(np.exp(_ar1(rng, n, rho)), qs) for _ in range(trials)]
    truths = np.exp(norm.ppf(qs))
    return [
        float(np.mean([each is not None and each.low <= truth <= each.high for each in column]))
        for truth, column in zip(truths, zip(*found, strict=True), strict=True)
    ]


# The hardest case of each size; every case is in benchmarks/latency_statistics.py.
@pytest.mark.parametrize("n, rho, qs", [(300, 0.8, (0.5, 0.9)), (1024, 0.8, (0.5, 0.9, 0.99)), (300, 0.0, (0.5, 0.9))])
def test_intervals_hold_the_true_quantile_in_93_of_100_series(n: int, rho: float, qs: tuple[float, ...]) -> None:
    assert min(_coverage(n, rho, qs, 1000)) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("n, qs", [(300, (0.5, 0.9)), (1024, (0.5, 0.9, 0.99))])
def test_intervals_hold_the_true_quantile_in_every_case(n: int, rho: float, qs: tuple[float, ...]) -> None:
    assert min(_coverage(n, rho, qs, 4000)) >= 0.93


def test_knowing_the_dependence_is_what_makes_intervals_honest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_inflation", lambda autocorrelations: 1.0)
    assert min(_coverage(300, 0.8, (0.5,), 200)) < 0.75


def test_intervals_are_not_wide_for_nothing() -> None:
    """Of independent samples: as wide as the exact ones but for a tenth."""
    rng = np.random.default_rng(13)
    widths, exact = [], []
    for _ in range(100):
        series = np.sort(rng.lognormal(size=1024))
        (found,) = quantiles(rng.permutation(series), (0.9,))
        assert found is not None
        widths.append(found.high - found.low)
        exact.append(series[int(binom.ppf(0.975, 1024, 0.9))] - series[int(binom.ppf(0.025, 1024, 0.9)) - 1])
    assert np.mean(widths) < 1.1 * np.mean(exact)


def test_a_quantile_that_no_sample_bounds_is_not_given() -> None:
    """1024 samples that are worth a hundred: p99 lies beyond them with a chance of a third."""
    series = np.exp(_ar1(np.random.default_rng(14), 1024, 0.98))
    p50, p99 = quantiles(series, (0.5, 0.99))
    assert p50 is not None
    assert p99 is None


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("rho", [0.3, 0.8])
def test_autocorrelation_of_an_indicator_equals_the_bivariate_normals(q: float, rho: float) -> None:
    z = norm.ppf(q)
    both = multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf([z, z])
    expected = (both - q * q) / (q * (1 - q))
    assert statistics._indicator_autocorrelations(np.array([1, rho]), q)[1] == pytest.approx(expected, abs=2e-3)


def test_pairing_cancels_what_slowed_both() -> None:
    rng = np.random.default_rng(23)
    wander = np.exp(0.3 * _ar1(rng, 400, 0.9))
    a, b = wander * rng.uniform(1, 1.01, 400), 2 * wander * rng.uniform(1, 1.01, 400)
    paired, broken = ratio(a, b, 0.25), ratio(a, np.roll(b, 200), 0.25)
    assert paired is not None
    assert broken is not None
    assert paired.typical.high - paired.typical.low < 0.2 * (broken.typical.high - broken.typical.low)


def test_the_ratio_interval_covers_the_true_ratio() -> None:
    rng = np.random.default_rng(24)
    found = [ratio(*_machine(rng, 300, slower=1.5), 0.25, seed) for seed in range(120)]
    assert np.mean([each.typical.low <= 1.5 <= each.typical.high for each in found if each]) > 0.87


def test_equal_constant_series_have_ratio_one_and_no_width() -> None:
    found = ratio(np.full(100, 5.0), np.full(100, 5.0), 0.25)
    assert found is not None
    assert (found.typical.low, found.typical.value, found.typical.high, found.p90) == (1, 1, 1, 1)


def test_a_ratio_needs_samples_and_a_clock_that_moves() -> None:
    assert ratio(np.ones(39), np.ones(39), 0.25) is None
    assert ratio(np.zeros(100), np.ones(100), 0.25) is None
    some_zero = ratio(np.where(np.arange(100) < 24, 0, 1.0), np.ones(100), 0.25)
    assert some_zero is not None
    assert some_zero.typical.high == np.inf
    assert not np.isnan([some_zero.typical.low, some_zero.typical.high]).any()
    few = ratio(np.ones(40), np.ones(40), 0.25)
    assert few is not None
    assert few.p90 is None


def test_unequal_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="not pairs"):
        ratio(np.ones(40), np.ones(41), 0.25)


def test_several_threads_compare_a_lower_quantile() -> None:
    assert (ratio_quantile(1), ratio_quantile(4)) == (0.25, 0.10)


def test_the_same_seed_gives_the_same_interval() -> None:
    a, b = _machine(np.random.default_rng(0), 300)
    assert ratio(a, b, 0.25, 7) == ratio(a, b, 0.25, 7) != ratio(a, b, 0.25, 8)


def test_chunked_resampling_gives_what_one_piece_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = _machine(np.random.default_rng(1), 300)
    one = ratio(a, b, 0.25)
    monkeypatch.setattr(statistics, "_CHUNK", 300 * 64)
    pieces = ratio(a, b, 0.25)
    assert pieces is not None
    assert one is not None
    assert (pieces.typical.low, pieces.typical.high) == pytest.approx((one.typical.low, one.typical.high), rel=0.02)


def test_of_a_very_long_series_every_other_pair_bounds_the_ratio_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The artifact that is second in a round is slower here: a thinned series that keeps every second round would tell that."""
    monkeypatch.setattr(statistics, "_MOST_RESAMPLED", 500)
    rng = np.random.default_rng(6)
    second = np.where(np.arange(1000) % 2, 1.2, 1.0)
    a, b = rng.lognormal(0, 0.01, 1000) * second[::-1], rng.lognormal(0, 0.01, 1000) * second
    assert statistics._spread(np.stack([a, b])).shape == (2, 334)
    found = ratio(a, b, 0.25)
    assert found is not None
    assert found.typical.value == np.quantile(b, 0.25) / np.quantile(a, 0.25)
    assert found.typical.low < 1 < found.typical.high < 1.01
    assert ratio(a[:500], b[:500], 0.25) == ratio(a[:500].copy(), b[:500], 0.25)


def test_block_length_follows_the_memory_of_the_series() -> None:
    rng = np.random.default_rng(2)
    independent, correlated = rng.normal(size=1000) + 10, _ar1(rng, 1000, 0.9) + 10
    assert block_length(independent) == 10
    # Carlstein's rule at rho 0.9, n 1000: (1.8 / 0.19)^(2/3) * 10 = 44.8.
    assert 30 <= block_length(correlated) <= 60
    assert block_length(np.ones(3)) == 1
    assert block_length(np.arange(40.0)) == 10


def test_autocorrelation_equals_numpys_and_sees_no_trend_in_ties() -> None:
    series = _ar1(np.random.default_rng(3), 5000, 0.7) + 10
    assert autocorrelation(series) == pytest.approx(np.corrcoef(series[1:], series[:-1])[0, 1], abs=0.01)
    assert autocorrelation(series) == pytest.approx(0.7, abs=0.05)
    assert autocorrelation(np.full(100, 0.1)) == 0
    assert autocorrelation(np.array([1.0, 2.0])) == 0


@given(TIMES)
def test_ranks_equal_scipy(series: np.ndarray) -> None:
    np.testing.assert_array_equal(statistics.ranks(series), rankdata(series))


def test_a_clock_that_steps_in_100_microseconds_is_seen_whatever_it_reports() -> None:
    rng = np.random.default_rng(5)
    coarse = rng.integers(3, 9, 100) * 100_000
    assert timer_tick(coarse, 1.0) == 100_000
    assert is_coarse(coarse, timer_tick(coarse, 1.0))
    assert not is_coarse(coarse * 100, 100_000.0)


def test_a_nanosecond_clock_is_not_coarse() -> None:
    fine = np.random.default_rng(6).integers(200_000, 300_000, 50)
    assert timer_tick(fine, 1.0) < 100
    assert not is_coarse(fine, 1.0)
    assert is_coarse(np.array([49]), timer_tick(np.array([49]), 1.0))


def test_warm_up_is_over_when_times_are_like_the_measured_ones() -> None:
    steady = np.random.default_rng(7).uniform(1.0, 1.1, 300)
    assert settled_after(np.array([30.0, 5, 2, 1.5, 1.05, 1.0, 1.05, 1.02]), steady) == 3
    assert settled_after(np.array([1.0, 9.0, 1.0, 1.0]), steady) == 0
    assert settled_after(np.array([30.0, 20, 10, 5]), steady) is None
    assert settled_after(np.array([1.0]), steady) == 0


@given(TIMES)
def test_a_histogram_holds_every_sample_in_order(series: np.ndarray) -> None:
    found = histogram(series)
    assert sum(found.counts) == series.size
    assert len(found.edges) == len(found.counts) + 1
    assert (found.edges[0], found.edges[-1]) == (series.min(), series.max())
    assert list(found.edges) == sorted(found.edges)


def test_one_huge_sample_does_not_flatten_the_histogram() -> None:
    series = np.append(np.random.default_rng(8).uniform(1, 2, 999), 500.0)
    found = histogram(series)
    assert len(found.counts) > 20
    assert found.edges[-2] < 2.1
    assert found.edges[-1] == 500
    assert histogram(np.full(7, 2.0)) == Histogram((2.0, 2.0), (7,))


@pytest.mark.parametrize("bad", [np.array([]), np.ones((2, 2)), np.array([1, np.nan]), np.array([-1.0])])
def test_what_is_no_series_of_times_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not a series"):
        quantiles(bad, (0.5,))


def test_a_report_of_six_artifacts_costs_less_than_a_second_of_processor() -> None:
    a, b = _machine(np.random.default_rng(9), 1024)
    start = time.process_time()
    for _ in range(6):
        quantiles(b, (0.5, 0.9, 0.99))
        ratio(a, b, 0.25)
    assert time.process_time() - start < 1.0
