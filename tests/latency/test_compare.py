"""Comparisons on simulated machines: what is called slower, what is not, and what looking again costs."""

from collections.abc import Callable

import numpy as np
import pytest

from edgepack.latency import compare as module
from edgepack.latency.compare import ComparisonError, Outcome, Pairs, compare, judge, verdict
from edgepack.pack.manifest import Estimate
from tests.latency.test_statistics import _machine


class Machine:
    """Measures two artifacts on the noisy machine of the other tests; remembers how much it was asked for."""

    def __init__(
        self, seed: int, slower: float, noise: Callable[[np.random.Generator, int, float], tuple[np.ndarray, np.ndarray]] = _machine
    ):
        self._rng, self._slower, self._noise, self.asked = np.random.default_rng(seed), slower, noise, list[int]()

    def __call__(self, pairs: int) -> Pairs:
        self.asked.append(pairs)
        return Pairs(*(np.rint(each).astype(np.int64) for each in self._noise(self._rng, pairs, self._slower)))


def _noisy(rng: np.random.Generator, n: int, slower: float) -> tuple[np.ndarray, np.ndarray]:
    """Independent, so wide that 300 pairs decide little: the estimate's standard deviation is about the margin."""
    return 1e6 * rng.lognormal(0, 0.25, n), 1e6 * slower * rng.lognormal(0, 0.25, n)


def _outcomes(slower: float, trials: int = 60, **options: float) -> list[Outcome]:
    return [compare(Machine(seed, slower), **options) for seed in range(trials)]  # type: ignore[arg-type]


def test_the_same_artifact_twice_is_no_difference() -> None:
    assert {found.verdict for found in _outcomes(1.0)} == {"no difference"}


def test_a_tenth_slower_is_a_regression_and_a_tenth_faster_an_improvement() -> None:
    assert {found.verdict for found in _outcomes(1.1, 20)} == {"regression"}
    assert {found.verdict for found in _outcomes(1 / 1.1, 20)} == {"improvement"}
    assert {found.verdict for found in _outcomes(1.1, 10, margin=0.2)} == {"no difference"}


def test_more_is_measured_while_it_does_not_tell_and_all_of_it_counts() -> None:
    machine = Machine(3, 1.03, _noisy)
    found = compare(machine, pairs=100)
    assert machine.asked == [100, 100, 200, 400, 800]
    assert (found.looks, found.pairs, found.verdict) == (5, 1600, "inconclusive")
    assert found.ratio.low < 1.03 < found.ratio.high


def test_a_clear_difference_is_told_at_the_first_look() -> None:
    machine = Machine(4, 1.5)
    found = compare(machine)
    assert (machine.asked, found.looks, found.pairs) == ([300], 1, 300)
    assert found.p90_ratio == pytest.approx(1.5, rel=0.2)


def _alarms(looks: int, confidence: float, trials: int) -> float:
    """Share of regressions at a true ratio of exactly 1 + margin, where they are likeliest, when each look is at ``confidence``."""
    alarms = 0
    for seed in range(trials):
        machine = Machine(seed, 1.03, _noisy)
        held = machine(100)
        for look in range(looks):
            held = held + machine(held.base.size) if look else held
            if judge(held, 0.03, 1, confidence).verdict == "regression":
                alarms += 1
                break
    return alarms / trials


def test_looking_again_does_not_inflate_false_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the margin itself at most 2.5 % of comparisons may end in a regression; unadjusted looks give more."""
    monkeypatch.setattr(module, "_RESAMPLES", 400)
    adjusted, plain = _alarms(4, 1 - 0.05 / 4, 200), _alarms(4, 0.95, 200)
    # Three standard errors of 200 trials of 2.5 %: 3.5 %; the bootstrap's own shortfall is in it.
    assert adjusted <= 0.025 + 0.035
    assert adjusted < plain


def test_several_threads_compare_p10() -> None:
    assert compare(Machine(5, 1.2), threads=4).quantile == 0.10
    assert compare(Machine(5, 1.2), threads=1).quantile == 0.25


def test_the_manifests_record_names_the_other_artifact() -> None:
    found = compare(Machine(6, 1.2)).against("ab" * 32)
    assert (found.against, found.verdict, found.margin, found.pairs) == ("ab" * 32, "regression", 0.03, 300)


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (1.031, 1.2, "regression"),
        (1.029, 1.2, "inconclusive"),
        (0.98, 1.02, "no difference"),
        (1.001, 1.02, "no difference"),
        (0.96, 1.02, "inconclusive"),
        (0.5, 0.97, "improvement"),
        (0.5, 0.972, "inconclusive"),
        (0.5, 2, "inconclusive"),
    ],
)
def test_the_verdict_is_where_the_interval_lies(low: float, high: float, expected: str) -> None:
    assert verdict(Estimate((low + high) / 2, low, high), 0.03) == expected


def _pairs(base: list[int], other: list[int], times: int = 100) -> Pairs:
    return Pairs(np.array(base * times), np.array(other * times))


@pytest.mark.parametrize(
    "held, words",
    [
        (_pairs([5], [5], 39), "39 rounds are too few to compare p25"),
        (Pairs(np.ones(50, np.int64), np.ones(51, np.int64)), "not pairs"),
        (_pairs([5, 7], [5, -7]), "negative times"),
        (_pairs([0], [5]), "reads 0"),
    ],
)
def test_samples_that_compare_nothing_are_refused(held: Pairs, words: str) -> None:
    with pytest.raises(ComparisonError, match=words):
        judge(held, 0.03, 1)


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan")])
def test_a_margin_that_decides_nothing_is_refused_before_measuring(margin: float) -> None:
    machine = Machine(0, 1)
    with pytest.raises(ComparisonError, match="decides nothing"):
        compare(machine, margin)
    assert machine.asked == []
