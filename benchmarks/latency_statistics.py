"""What the statistics of latency promise, on simulated series whose truth is known: coverage of intervals, false alarms, what is found.

make bench-latency-statistics

Intervals must cover the true quantile in at least 93 % of the series; detectors may find something in at most 1 % of independent ones.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgepack.latency import detectors
from edgepack.latency.statistics import block_length, quantiles

COVERED, FALSE_ALARMS = 0.93, 0.01
RHOS, SIZES = (0.0, 0.5, 0.8), (300, 1024)
Series = NDArray[np.float64]
Generator = np.random.Generator
# The moving-block percentile bootstrap that is compared with: how many resamples.
RESAMPLES = 400

DETECTORS: dict[str, Callable[[Series], object]] = {
    "step": detectors.step,
    "drift": detectors.drift,
    "slow stretch": detectors.slow_stretch,
    "second mode": detectors.second_mode,
    "correlated": detectors.correlated,
}


@dataclass(frozen=True)
class Row:
    """A share of simulated series with what it must be; ``at_most``: the bar is a ceiling; None: no bar."""

    what: str
    share: float
    bar: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the bar holds."""
        return self.bar is None or (self.share <= self.bar if self.at_most else self.share >= self.bar)


def ar1(rng: Generator, n: int, rho: float) -> Series:
    """A stationary AR(1) with standard normal marginals."""
    noise = rng.normal(size=n) * np.sqrt(1 - rho**2)
    series = np.empty(n)
    series[0] = rng.normal()
    for i in range(1, n):
        series[i] = rho * series[i - 1] + noise[i]
    return series


def coverage(trials: int) -> Iterator[Row]:
    """Lognormal (sigma 1) series: how often the interval holds the true quantile; a quantile that is not given does not cover it."""
    for n, rho in ((n, rho) for n in SIZES for rho in RHOS):
        rng = np.random.default_rng(1)
        held = [np.exp(ar1(rng, n, rho)) for _ in range(trials)]
        qs = (0.5, 0.9, 0.99) if n >= 1000 else (0.5, 0.9)
        found = [quantiles(series, qs) for series in held]
        before = [bootstrap(series, qs) for series in held[: trials // 4]]
        for index, q in enumerate(qs):
            truth = np.exp(NormalDist().inv_cdf(q))
            given = [row[index] for row in found if row[index] is not None]
            covered = sum(each.low <= truth <= each.high for each in given if each)
            old = np.mean([low[index] <= truth <= high[index] for low, high in before])
            note = f"not given {trials - len(given)}; moving-block bootstrap {old:.3f}"
            yield Row(f"p{100 * q:.0f} n={n} rho={rho:g}", covered / trials, COVERED, note=note)


def bootstrap(series: Series, qs: Sequence[float]) -> tuple[Series, Series]:
    """The percentile intervals that edgepack gave before: blocks of ``block_length``."""
    rng, block = np.random.default_rng(0), block_length(series)
    starts = rng.integers(0, series.size - block + 1, (RESAMPLES, -(-series.size // block)))
    index = (starts[..., None] + np.arange(block)).reshape(RESAMPLES, -1)[:, : series.size]
    low, high = np.quantile(np.quantile(series[index], qs, axis=1), [0.025, 0.975], axis=1)
    return low, high


NOISE: dict[str, Callable[[Generator, int], Series]] = {
    "lognormal 0.03": lambda rng, n: np.exp(0.03 * rng.normal(size=n)),
    "lognormal 0.5": lambda rng, n: np.exp(0.5 * rng.normal(size=n)),
    "lognormal 1": lambda rng, n: np.exp(rng.normal(size=n)),
    "exponential above 1": lambda rng, n: 1 + 0.2 * rng.exponential(size=n),
    "uniform": lambda rng, n: rng.uniform(1, 2, n),
    "spikes": lambda rng, n: np.exp(0.03 * rng.normal(size=n)) * np.where(rng.random(n) < 0.02, rng.uniform(2, 10, n), 1),
}


def false_alarms(trials: int) -> Iterator[Row]:
    """Independent noise of many shapes through every detector."""
    for n in (60, 100, 300, 1024, 3000):
        for shape, noise in NOISE.items():
            rng = np.random.default_rng(2)
            held = [noise(rng, n) for _ in range(trials)]
            for name, detect in DETECTORS.items():
                yield Row(f"{name} n={n} {shape}", sum(detect(series) is not None for series in held) / trials, FALSE_ALARMS, at_most=True)


def quiet(rng: Generator, n: int) -> Series:
    """A steady machine: 3 % noise, a spike of 2 to 10 times in fifty."""
    return NOISE["spikes"](rng, n)


def _tenth(rng: Generator, n: int, factor: float, length: int) -> Series:
    """A tenth of the samples ``factor`` slower, in stretches of ``length``."""
    slow = np.zeros(n, bool)
    while slow.sum() < n // 10:
        start = rng.integers(0, n - length + 1)
        slow[start : start + length] = True
    return quiet(rng, n) * np.where(slow, factor, 1)


DISTURBED: dict[str, tuple[Callable[[Series], object], Callable[[Generator, int], Series]]] = {
    "step of 10 % in the middle": (detectors.step, lambda rng, n: quiet(rng, n) * np.where(np.arange(n) < n // 2, 1, 1.1)),
    "step of 10 % at a quarter": (detectors.step, lambda rng, n: quiet(rng, n) * np.where(np.arange(n) < n // 4, 1, 1.1)),
    "step down of 10 %": (detectors.step, lambda rng, n: quiet(rng, n) * np.where(np.arange(n) < n // 2, 1.1, 1)),
    "drift of 15 %": (detectors.drift, lambda rng, n: quiet(rng, n) * np.linspace(1, 1.15, n)),
    "a tenth 1.3 times, one stretch": (detectors.throttling, lambda rng, n: _tenth(rng, n, 1.3, n // 10)),
    "a tenth 1.3 times, in fives": (detectors.throttling, lambda rng, n: _tenth(rng, n, 1.3, 5)),
    "a tenth 1.3 times, scattered": (detectors.throttling, lambda rng, n: _tenth(rng, n, 1.3, 1)),
    "a tenth 2 times, scattered": (detectors.throttling, lambda rng, n: _tenth(rng, n, 2, 1)),
    "AR(1) of 0.5": (detectors.correlated, lambda rng, n: np.exp(0.03 * ar1(rng, n, 0.5))),
}


def found(trials: int) -> Iterator[Row]:
    """Disturbed series through the detector that has to see them; and named so by ``shift`` where it is a step or a drift."""
    for n in SIZES:
        for what, (detect, disturbed) in DISTURBED.items():
            rng = np.random.default_rng(3)
            held = [disturbed(rng, n) for _ in range(trials)]
            named = what.split()[0]
            kinds = [each.kind for series in held if (each := detectors.shift(series))] if named in ("step", "drift") else []
            note = f"named so {kinds.count(named) / trials:.3f}" if kinds else ""
            yield Row(f"found: {what}, n={n}", sum(detect(series) is not None for series in held) / trials, 0.99, note=note)


def correlated_noise(trials: int) -> Iterator[Row]:
    """For information: what the detectors make of undisturbed series that are not independent."""
    for rho in (0.5, 0.8):
        rng = np.random.default_rng(4)
        held = [np.exp(0.03 * ar1(rng, 300, rho)) for _ in range(trials)]
        for name, detect in DETECTORS.items():
            yield Row(f"{name} n=300 AR(1) {rho} of 3 %", sum(detect(series) is not None for series in held) / trials)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description="Coverage and false alarms of the statistics of latency, simulated.")
    parser.add_argument("--trials", type=int, default=1000, help="series a row")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(arguments)
    rows = []
    for table in (coverage, false_alarms, found, correlated_noise):
        for row in table(given.trials):
            rows.append(row)
            if not given.json:
                bar = "" if row.bar is None else f"{'<=' if row.at_most else '>='} {row.bar:.2f} {'ok' if row.ok else 'MISSED'}"
                print(f"{row.what:52} {row.share:6.3f}  {bar:14} {row.note}", flush=True)
    if given.json:
        print(json.dumps([{**asdict(row), "ok": row.ok} for row in rows], indent=1))
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
