"""Latency statistics against scipy, exact order statistics and simulated machines whose truth is known."""

import time
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binom, norm, rankdata

from edgepack.latency import statistics
from edgepack.latency.statistics import (
    Histogram,
    autocorrelation,
    block_length,
    drift,
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


def test_independent_samples_get_the_interval_of_exact_order_statistics() -> None:
    # Exact, distribution-free: ranks from the binomial (David, Nagaraja 7.1). The bootstrap's ends must be near those samples.
    n, q = 1000, 0.5
    series = np.sort(np.random.default_rng(3).lognormal(size=n))
    low, high = series[int(binom.ppf(0.025, n, q)) - 1], series[int(binom.ppf(0.975, n, q))]
    (found,) = quantiles(np.random.default_rng(4).permutation(series), (q,))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.03)


@pytest.mark.parametrize("rho", [0.0, 0.6])
@pytest.mark.parametrize("q", [0.5, 0.9])
def test_intervals_cover_the_true_quantile_under_autocorrelation(rho: float, q: float) -> None:
    rng = np.random.default_rng(11)
    truth = np.exp(norm.ppf(q))
    found = [quantiles(np.exp(_ar1(rng, 400, rho)), (q,), seed)[0] for seed in range(150)]
    covered = np.mean([interval.low <= truth <= interval.high for interval in found if interval])
    assert covered > 0.87, covered


def test_blocks_are_what_makes_correlated_intervals_honest(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(12)
    series = [np.exp(_ar1(rng, 400, 0.8)) for _ in range(100)]

    def coverage() -> float:
        found = [quantiles(each, (0.5,))[0] for each in series]
        return float(np.mean([interval.low <= 1 <= interval.high for interval in found if interval]))

    with_blocks = coverage()
    monkeypatch.setattr(statistics, "block_length", lambda samples: 1)
    without = coverage()
    assert with_blocks > 0.82
    assert without < with_blocks - 0.15


def test_the_same_artifact_twice_is_never_called_slower() -> None:
    rng = np.random.default_rng(21)
    verdicts = [found.verdict for seed in range(60) if (found := ratio(*_machine(rng, 300), 0.25, seed))]
    assert verdicts.count("slower") == verdicts.count("faster") == 0
    assert len(verdicts) == 60


def test_a_tenth_slower_is_found_and_its_reciprocal_is_faster() -> None:
    rng = np.random.default_rng(22)
    for seed in range(20):
        a, b = _machine(rng, 300, slower=1.10)
        forth, back = ratio(a, b, 0.25, seed), ratio(b, a, 0.25, seed)
        assert forth is not None
        assert back is not None
        assert (forth.verdict, back.verdict) == ("slower", "faster")
        assert forth.typical.value == pytest.approx(1.10, abs=0.02)
        assert forth.typical.value * back.typical.value == pytest.approx(1)


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
    assert found.verdict == "no difference shown"


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
    series = np.random.default_rng(0).lognormal(size=300)
    assert quantiles(series, (0.5,), 7) == quantiles(series, (0.5,), 7) != quantiles(series, (0.5,), 8)


def test_chunked_resampling_gives_what_one_piece_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    series = rng.lognormal(size=300)
    whole = quantiles(series, (0.5,))
    monkeypatch.setattr(statistics, "_CHUNK", 300 * 64)
    (pieces,), (one,) = quantiles(series, (0.5,)), whole
    assert pieces is not None
    assert one is not None
    assert (pieces.low, pieces.high) == pytest.approx((one.low, one.high), rel=0.02)


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
    np.testing.assert_array_equal(statistics._ranks(series), rankdata(series))


def test_drift_is_seen_and_a_late_spike_is_not_drift() -> None:
    steady = np.random.default_rng(4).lognormal(0, 0.02, 300)
    heated = steady * np.linspace(1, 1.2, 300)
    spiked = steady.copy()
    spiked[-20:] *= 30
    assert drift(steady) == pytest.approx(1, abs=0.02)
    assert drift(heated) == pytest.approx(1.13, abs=0.03)
    assert drift(spiked) == pytest.approx(1, abs=0.02)
    assert drift(steady[:59]) is None
    assert drift(np.zeros(90)) is None


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
