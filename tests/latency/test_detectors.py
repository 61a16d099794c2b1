"""Every disturbance is found and named, undisturbed noise is left alone. The long table is benchmarks/latency_statistics.py."""

from collections.abc import Callable

import numpy as np
import pytest

from edgepack.latency import detectors
from edgepack.latency.detectors import correlated, drift, second_mode, shift, slow_stretch, step, throttling
from tests.latency.test_statistics import _ar1

Noise = Callable[[np.random.Generator, int], np.ndarray]

DETECTORS = (step, drift, slow_stretch, second_mode, correlated)
NOISE: dict[str, Noise] = {
    "narrow": lambda rng, n: np.exp(0.03 * rng.normal(size=n)),
    "wide": lambda rng, n: np.exp(rng.normal(size=n)),
    "flat": lambda rng, n: rng.uniform(1, 2, n),
    "spiked": lambda rng, n: np.exp(0.03 * rng.normal(size=n)) * np.where(rng.random(n) < 0.02, rng.uniform(2, 10, n), 1),
}


def _quiet(seed: int, n: int = 300) -> np.ndarray:
    return NOISE["spiked"](np.random.default_rng(seed), n)


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("n", [20, 300])
def test_independent_noise_of_any_shape_raises_an_alarm_in_one_of_a_hundred_at_most(noise: str, n: int) -> None:
    rng = np.random.default_rng(31)
    held = [NOISE[noise](rng, n) for _ in range(500)]
    assert {detect.__name__: sum(detect(series) is not None for series in held) for detect in DETECTORS} == pytest.approx(
        {detect.__name__: 0 for detect in DETECTORS}, abs=5
    )


def test_a_step_up_and_down_is_a_step_with_its_place_and_size() -> None:
    for seed in range(30):
        up = shift(_quiet(seed) * np.where(np.arange(300) < 200, 1, 1.1))
        down = shift(_quiet(seed) * np.where(np.arange(300) < 100, 1.2, 1))
        assert up is not None and (up.kind, up.at, up.factor) == ("step", pytest.approx(0.67, abs=0.1), pytest.approx(1.1, abs=0.02))
        assert down is not None and (down.kind, down.at, down.factor) == (
            "step",
            pytest.approx(0.33, abs=0.1),
            pytest.approx(1 / 1.2, abs=0.03),
        )


def test_a_slow_drift_is_a_drift() -> None:
    for seed in range(30):
        found = shift(_quiet(seed) * np.linspace(1, 1.15, 300))
        assert found is not None and (found.kind, found.factor) == ("drift", pytest.approx(1.1, abs=0.03))


def test_a_change_too_small_to_matter_is_none() -> None:
    steady = np.exp(0.001 * np.random.default_rng(0).normal(size=1000))
    assert shift(steady * np.linspace(1, 1.04, 1000)) is None
    assert step(steady * np.where(np.arange(1000) < 500, 1, 1.04)) is None


@pytest.mark.parametrize("factor", [1.4, 2.0, 5.0])
@pytest.mark.parametrize("length", [30, 5, 1])
def test_a_tenth_of_the_queries_slower_is_throttling_in_a_stretch_or_scattered(factor: float, length: int) -> None:
    rng = np.random.default_rng(int(10 * factor) + length)
    for seed in range(20):
        slow = np.zeros(300, bool)
        while slow.sum() < 30:
            start = rng.integers(0, 301 - length)
            slow[start : start + length] = True
        found = throttling(_quiet(seed) * np.where(slow, factor, 1))
        assert found is not None
        assert 0.05 <= found.share <= 0.2
        # A stretch around short bursts holds quick queries too.
        assert 1.2 <= found.factor <= 1.2 * factor


def test_a_stretch_is_told_from_scattered_queries() -> None:
    at_the_end = throttling(_quiet(1) * np.where(np.arange(300) >= 270, 1.4, 1))
    every_tenth = throttling(_quiet(1) * np.where(np.arange(300) % 10 == 3, 1.4, 1))
    assert at_the_end is not None and at_the_end.together
    assert every_tenth is not None and not every_tenth.together


def test_rare_spikes_are_no_throttling() -> None:
    assert [throttling(_quiet(seed, 1024)) for seed in range(50)] == [None] * 50


def test_correlated_neighbours_are_told_and_a_spike_does_not_hide_them() -> None:
    rng = np.random.default_rng(6)
    for rho in (0.5, 0.8):
        series = np.exp(0.03 * _ar1(rng, 1024, rho))
        series[::97] *= 30
        assert correlated(series) == pytest.approx(rho, abs=0.1)
    assert correlated(rng.lognormal(size=1024)) is None


@pytest.mark.parametrize("series", [np.ones(1), np.zeros(400), np.full(400, 7.0), np.array([1.0, 2.0])])
def test_series_that_say_nothing_raise_no_alarm(series: np.ndarray) -> None:
    assert [detect(series) for detect in (*DETECTORS, shift, throttling)] == [None] * 7


def test_block_medians_hold_every_sample() -> None:
    assert detectors.block_medians(np.arange(1003.0)).size == 64
    assert detectors.block_medians(np.arange(4.0)).tolist() == [1.5]


def test_the_most_that_chance_explains_is_the_binomials() -> None:
    from scipy.stats import binom

    for draws, chance in ((15, 1e-4), (51, 1e-3), (150, 1e-6)):
        count = detectors._most_by_chance(draws, 0.2, chance)
        assert binom.sf(count - 1, draws, 0.2) <= chance < binom.sf(count - 2, draws, 0.2)
