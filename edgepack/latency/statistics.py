"""What a series of query times says, and how surely. Pure numpy; samples stay in the order they were taken and none is ever dropped.

Times are neither independent nor normal: neighbours share a frequency, a temperature and a neighbour process, and the tail is long.
So quantiles instead of means, and a bootstrap that resamples whole stretches of time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

# Resamples of the A/A study behind SLOWER_ABOVE (270 trials); the 2.5 % point is then the 10th smallest of 400.
RESAMPLES = 400

# Shortest block: the length the A/A study used; it spans the scheduler ticks (1-4 ms) that queries of a few hundred microseconds share.
SHORTEST_BLOCK = 10

# A series keeps at least this many different blocks, else every resample is the series itself and the interval collapses.
FEWEST_BLOCKS = 4

# A quantile needs samples beyond it. For independent samples the upper order statistic that bounds quantile q with 97.5 % exists when
# q^n <= 0.025, that is n >= 3.69 / (1 - q) (H. A. David, H. N. Nagaraja, Order Statistics, 3rd ed., 7.1). A lag-1 autocorrelation of 0.46
# leaves n (1 - rho) / (1 + rho) = n / 2.7 effective samples (G. V. Bayley, J. M. Hammersley, 1946): 3.69 * 2.7 = 10.
SAMPLES_BEYOND = 10

# A/A study, 300 interleaved pairs: "slower when the lower end is above 1.03" gave 0 false alarms in 270 trials and found +5 % in 30 of 30;
# "the interval excludes 1" gave up to 57 % false alarms.
SLOWER_ABOVE = 1.03

# The machine got slower while it was measured when p25 of the last third is more than 5 % over the first third's (same study).
DRIFT_ABOVE = 1.05

# Rounding down by up to one tick is then at most 2 % of a sample, below the 3 % that SLOWER_ABOVE decides on.
FEWEST_TICKS = 50

# Elements resampled at a time: bounds memory at 16 MB whatever the length of the series.
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A statistic with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Interval:
        """In another unit; ``factor`` above 0."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Ratio:
    """How the times of ``b`` compare with those of ``a`` taken in turn.

    Attributes:
        typical: quantile of b over the same quantile of a (p25, or p10 with several threads), with its interval.
        p90: p90 of b over p90 of a, None below 100 samples; no interval, as the study found it to deviate ten times as far.
    """

    typical: Interval
    p90: float | None

    @property
    def verdict(self) -> str:
        """ "slower", "faster" or "no difference shown", by ``SLOWER_ABOVE``."""
        if self.typical.low > SLOWER_ABOVE:
            return "slower"
        return "faster" if self.typical.high < 1 / SLOWER_ABOVE else "no difference shown"


@dataclass(frozen=True)
class Histogram:
    """Counts between edges: ``len(edges) == len(counts) + 1``, every sample is in exactly one bin."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


def fewest_samples(q: float) -> int:
    """How many samples quantile ``q`` needs (20 for p50, 100 for p90, 1000 for p99): ``SAMPLES_BEYOND`` on its rarer side."""
    _check_quantile(q)
    # Rounded first: 10 / (1 - 0.9) is 100.00000000000003 in floating point.
    return ceil(round(SAMPLES_BEYOND / min(q, 1 - q), 6))


def quantiles(samples: Samples, qs: Sequence[float], seed: int = 0) -> tuple[Interval | None, ...]:
    """Quantiles with 95 % percentile intervals from a moving-block bootstrap.

    H. R. Künsch, "The jackknife and the bootstrap for general stationary observations", Annals of Statistics 17 (1989) 1217-1241; its
    validity for quantiles: S. Sun, S. N. Lahiri, "Bootstrapping the sample quantile of a weakly dependent sequence", Sankhya 68 (2006)
    130-166. Quantiles interpolate linearly (R. J. Hyndman, Y. Fan, 1996, type 7).

    Args:
        samples: (n,) in the order taken, finite and >= 0, any unit.
        qs: between 0 and 1, exclusive.
        seed: of the resampling; the same seed and samples give the same interval.

    Returns:
        One for each q, in the unit of ``samples``; None where n is below ``fewest_samples(q)``.
    """
    series = _series(samples)
    enough = [q for q in qs if series.size >= fewest_samples(q)]
    if not enough:
        return (None,) * len(qs)
    values = np.quantile(series, enough)
    resampled = _resample(lambda index: np.quantile(series[index], enough, axis=1), series.size, block_length(series), seed)
    low, high = _percentile_ends(resampled)
    found = dict(zip(enough, map(_interval, values, low, high), strict=True))
    return tuple(found.get(q) for q in qs)


def ratio(a: Samples, b: Samples, q: float, seed: int = 0) -> Ratio | None:
    """Quantile ``q`` of b over that of a, both resampled at the same moments, so that what disturbed both cancels.

    A low quantile (see ``ratio_quantile``) is what the code takes when nothing disturbs it; the A/A study found it steadier than mean,
    median or p90 on a noisy machine. Moving-block bootstrap as in ``quantiles``; pairing keeps the dependence between the two series.

    Args:
        a, b: (n,) taken in turn (ABBA), the same unit, above 0 at quantile ``q``.

    Returns:
        None when n is below ``fewest_samples(q)`` or a's quantile is 0 (a timer too coarse for any ratio).
    """
    base, other = _series(a), _series(b)
    if base.shape != other.shape:
        raise ValueError(f"{base.size} and {other.size} samples are not pairs")
    if base.size < fewest_samples(q) or np.quantile(base, q) <= 0:
        return None
    both = np.stack([base, other])
    block = max(block_length(base), block_length(other))
    resampled = _resample(lambda index: _ratios(both[:, index], q)[None], base.size, block, seed)
    low, high = _percentile_ends(resampled)
    p90 = _ratio(both, 0.9) if base.size >= fewest_samples(0.9) else None
    return Ratio(_interval(_ratio(both, q), low[0], high[0]), p90)


def ratio_quantile(threads: int) -> float:
    """Which quantile to compare: p25 on one thread; p10 on several, where any late worker delays the query (A/A study)."""
    return 0.25 if threads == 1 else 0.10


def block_length(samples: Samples) -> int:
    """Consecutive samples that are resampled together.

    E. Carlstein, "The use of subseries values for estimating the variance of a general statistic", Annals of Statistics 14 (1986)
    1171-1179: (2 rho / (1 - rho^2))^(2/3) n^(1/3) for an AR(1) of lag-1 autocorrelation rho. At least ``SHORTEST_BLOCK``, at most a
    ``FEWEST_BLOCKS``-th of the series. rho is that of the ranks, so that one spike of 30 times the median does not hide the rest.
    """
    series = _series(samples)
    rho = min(max(autocorrelation(_ranks(series)), 0.0), 0.99)
    wanted = ceil(float(np.cbrt((2 * rho / (1 - rho**2)) ** 2 * series.size)))
    return max(1, min(max(wanted, SHORTEST_BLOCK), int(series.size) // FEWEST_BLOCKS))


def autocorrelation(samples: Samples) -> float:
    """Lag-1 autocorrelation, in [-1, 1] (Box, Jenkins, Reinsel, Time Series Analysis, 2.1.5); 0 when constant or of fewer than 3."""
    series = _series(samples)
    centred = series - series.mean()
    power = float(centred @ centred)
    # A constant series leaves only the rounding of its mean behind.
    if series.size < 3 or power <= series.size * (1e-12 * float(np.abs(series).max())) ** 2:
        return 0.0
    return float(centred[1:] @ centred[:-1]) / power


def drift(samples: Samples) -> float | None:
    """p25 of the last third over p25 of the first third; above ``DRIFT_ABOVE`` the machine slowed down meanwhile.

    None when a third has fewer than 20 samples, five of them below p25, or when the first third's p25 is 0.
    """
    series = _series(samples)
    third = series.size // 3
    if third < 20:
        return None
    first, last = np.quantile(series[:third], 0.25), np.quantile(series[-third:], 0.25)
    return float(last / first) if first > 0 else None


def timer_tick(samples_ns: NDArray[np.int64], reported_ns: float) -> float:
    """The step of the clock: what the platform reports, or the greatest common divisor of the samples where that is coarser.

    Platforms report 1 ns for clocks that step in microseconds (browsers, virtual machines), and the samples show it: a few dozen times
    of a true nanosecond clock share no divisor but 1.
    """
    if samples_ns.size < 2:
        return reported_ns
    return max(reported_ns, float(np.gcd.reduce(samples_ns.astype(np.int64))))


def is_coarse(samples_ns: NDArray[np.int64], tick_ns: float) -> bool:
    """Whether any sample is shorter than ``FEWEST_TICKS`` ticks of its clock."""
    return bool(samples_ns.min() < FEWEST_TICKS * tick_ns)


def settled_after(warm_up: Samples, steady: Samples) -> int | None:
    """How many warm-up queries passed before times were like the measured ones.

    The first position from which the median of three in a row is no longer above p90 of the measured samples; a median, because one late
    query is no warm-up, p90, because a tenth of the measured samples is above it as well. None when that was never reached.
    """
    early, limit = _series(warm_up), np.quantile(_series(steady), 0.9)
    windows = np.lib.stride_tricks.sliding_window_view(early, min(3, early.size))
    settled = np.flatnonzero(np.median(windows, axis=1) <= limit)
    return int(settled[0]) if settled.size else None


def histogram(samples: Samples, bins: int = 32) -> Histogram:
    """Equal bins for the body of the samples, and one last bin from there to the largest.

    The tail of a latency is long: bins equal up to the largest sample would put all but one in the first. The body ends at p99 or at
    Tukey's outer fence, three interquartile ranges above the upper quartile (Exploratory Data Analysis, 1977, 2D), whichever is lower.
    At most sqrt(n) bins, so that most hold something. One bin when all samples are equal.
    """
    series = _series(samples)
    low, body, high = float(series.min()), _body_end(series), float(series.max())
    if low == high:
        return Histogram((low, high), (series.size,))
    # With many ties the body can end where the samples do; a bin of no width is left out.
    equal = max(1, min(bins, int(np.sqrt(series.size))))
    edges = np.linspace(low, body, equal + 1) if low < body else np.array([low])
    edges = np.append(edges, high) if body < high else edges
    counts, _ = np.histogram(series, edges)
    return Histogram(tuple(map(float, edges)), tuple(map(int, counts)))


def _body_end(series: Samples) -> float:
    lower, upper, p99 = (float(x) for x in np.quantile(series, [0.25, 0.75, 0.99]))
    return min(p99, upper + 3 * (upper - lower)) if upper > lower else p99


def _series(samples: Samples) -> Samples:
    series = np.asarray(samples, np.float64)
    if series.ndim != 1 or series.size == 0 or not np.isfinite(series).all() or series.min() < 0:
        raise ValueError(f"samples of shape {series.shape} are not a series of finite times")
    return series


def _check_quantile(q: float) -> None:
    if not 0 < q < 1:
        raise ValueError(f"quantile {q} is not between 0 and 1")


def _resample(statistic: Callable[[NDArray[np.int64]], Samples], size: int, block: int, seed: int) -> Samples:
    """``statistic`` of ``RESAMPLES`` resampled series.

    Args:
        statistic: from positions (r, size) to values (k, r).

    Returns:
        (k, RESAMPLES)
    """
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // size)
    counts = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
    return np.concatenate([statistic(_moving_blocks(rng, count, size, block)) for count in counts], axis=1)


def _moving_blocks(rng: np.random.Generator, count: int, size: int, block: int) -> NDArray[np.int64]:
    """Positions (count, size): stretches of ``block`` from uniformly drawn starts, the last cut to fit."""
    starts = rng.integers(0, size - block + 1, (count, ceil(size / block)))
    return (starts[..., None] + np.arange(block)).reshape(count, -1)[:, :size]


def _ratio(both: Samples, q: float) -> float:
    """(2, n) pairs -> the ratio of quantile ``q``."""
    return float(_ratios(both[:, None], q)[0])


def _ratios(both: Samples, q: float) -> Samples:
    """(2, r, n) resampled pairs -> (r,) ratios of quantile ``q``."""
    base, other = np.quantile(both, q, axis=-1)
    # A resample may hit a zero quantile only where a coarse timer gave zeros; its ratio is unbounded, and so is the interval.
    ratios: Samples = np.divide(other, base, out=np.full(base.shape, np.inf), where=base > 0)
    return ratios


def _percentile_ends(resampled: Samples) -> tuple[Samples, Samples]:
    """The 2.5 % and 97.5 % points along the last axis, as observed values: interpolating between infinities gives NaN."""
    ends = np.quantile(resampled, [0.025, 0.975], axis=-1, method="nearest")
    return ends[0], ends[1]


def _interval(value: float, low: float, high: float) -> Interval:
    """With the estimate inside: in short series every resample can lie on one side of it."""
    return Interval(float(value), float(min(low, value)), float(max(high, value)))


def _ranks(series: Samples) -> Samples:
    """Mid-ranks: equal samples share theirs, or a coarse clock's ties would count as a trend."""
    _, inverse, counts = np.unique(series, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts).astype(np.float64)
    ranks: Samples = (ends - (counts - 1) / 2)[inverse]
    return ranks
