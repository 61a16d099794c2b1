"""What a series of query times says, and how surely. Pure numpy; samples stay in the order they were taken and none is ever dropped.

Times are neither independent nor normal: neighbours share a frequency, a temperature and a neighbour process, and the tail is long.
So quantiles instead of means, intervals that know how many independent samples the series is worth, and for ratios a bootstrap that
resamples whole stretches of time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, floor
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

# Resamples of the A/A study (270 trials); the 2.5 % point is then the 10th smallest of 400.
RESAMPLES = 400
CONFIDENCE = 0.95

# Shortest block: the length the A/A study used; it spans the scheduler ticks (1-4 ms) that queries of a few hundred microseconds share.
SHORTEST_BLOCK = 10

# A series keeps at least this many different blocks, else every resample is the series itself and the interval collapses.
FEWEST_BLOCKS = 4

# A quantile needs samples beyond it. For independent samples the upper order statistic that bounds quantile q with 97.5 % exists when
# q^n <= 0.025, that is n >= 3.69 / (1 - q) (H. A. David, H. N. Nagaraja, Order Statistics, 3rd ed., 7.1). A lag-1 autocorrelation of 0.46
# leaves n (1 - rho) / (1 + rho) = n / 2.7 effective samples (G. V. Bayley, J. M. Hammersley, 1946): 3.69 * 2.7 = 10.
SAMPLES_BEYOND = 10

# Rounding down by up to one tick is then at most 2 % of a sample, below the 3 % that is the default margin of a comparison.
FEWEST_TICKS = 50

# At the fewest samples and lag-1 0.46 the largest sample bounds the quantile with 97.5 % (SAMPLES_BEYOND); down to 90 % it is still the
# upper end, since the worth is itself estimated and too low as often as too high.
_UNBOUNDED = 0.1

# Hermite terms of a bivariate normal: the 24th is below 1e-3 of the sum at rho 0.8 and p99, and only ever adds to it.
_HERMITE = 24

# Pairs that are resampled at most: ten thousand blocks of 20, and some three seconds for 400 resamples. With so many the interval is a
# fraction of the least margin there is (0.1 %) for any time that is worth comparing.
_MOST_RESAMPLED = 200_000
# Elements resampled at a time, ten rows of the longest series at least: 16 MB of positions, 32 MB of times, and as much to sort.
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


def quantiles(samples: Samples, qs: Sequence[float]) -> tuple[Interval | None, ...]:
    """Quantiles with 95 % intervals: order statistics, by the number of independent samples that the series is worth for this quantile.

    A quantile is below x exactly when enough samples are, which is a count (R. S. Woodruff, "Confidence intervals for medians and other
    position measures", JASA 47 (1952) 635-646): the ends are samples, whatever the distribution. Dependence enters as an effective number
    of samples in the exact binomial (E. L. Korn, B. I. Graubard, Survey Methodology 24 (1998) 193-201), as for quantiles of Markov chains
    in A. Vehtari and others, "Rank-normalization, folding, and localization", Bayesian Analysis 16 (2021) 667-718, 4.3. The estimate
    interpolates linearly (R. J. Hyndman, Y. Fan, 1996, type 7). A moving-block bootstrap of percentiles, the usual alternative, covered
    0.79 to 0.96 (``benchmarks/latency_statistics.py`` has the table).

    Args:
        samples: (n,) in the order taken, finite and >= 0, any unit.
        qs: between 0 and 1, exclusive.

    Returns:
        One for each q, in the unit of ``samples``; None where n is below ``fewest_samples(q)`` or no sample bounds the quantile.
    """
    series = series_of(samples)
    ordered, scores = np.sort(series), _autocorrelations(_normal_scores(series))
    return tuple(_quantile(series, ordered, scores, q) if series.size >= fewest_samples(q) else None for q in qs)


def _quantile(series: Samples, ordered: Samples, scores: Samples, q: float) -> Interval | None:
    """One of ``quantiles``; scores: autocorrelations of the normal scores."""
    value = float(np.quantile(ordered, q))
    copula = _inflation(_indicator_autocorrelations(scores, q))
    if max(q, 1 - q) ** (series.size / copula) > _UNBOUNDED:
        return None
    own = _inflation(_autocorrelations((series <= value).astype(np.float64)))
    low, high = _order_levels(max(1, int(series.size / max(copula, own))), q)
    ends = ordered[max(0, floor(low * (series.size + 1)) - 1)], ordered[min(series.size, ceil(high * (series.size + 1))) - 1]
    return _interval(value, ends[0], ends[1])


def ratio(a: Samples, b: Samples, q: float, seed: int = 0, confidence: float = CONFIDENCE, resamples: int = RESAMPLES) -> Ratio | None:
    """Quantile ``q`` of b over that of a, both resampled at the same moments, so that what disturbed both cancels.

    A low quantile (see ``ratio_quantile``) is what the code takes when nothing disturbs it; the A/A study found it steadier than mean,
    median or p90 on a noisy machine. Percentile interval of a moving-block bootstrap: H. R. Künsch, "The jackknife and the bootstrap for
    general stationary observations", Annals of Statistics 17 (1989) 1217-1241; its validity for quantiles: S. Sun, S. N. Lahiri,
    "Bootstrapping the sample quantile of a weakly dependent sequence", Sankhya 68 (2006) 130-166. Pairing keeps the dependence between
    the two series.

    Args:
        a, b: (n,) taken in turn (ABBA), the same unit, above 0 at quantile ``q``.
        seed: of the resampling; the same seed and samples give the same interval.
        confidence: of the interval; resamples: of the bootstrap.

    Returns:
        None when n is below ``fewest_samples(q)`` or a's quantile is 0 (a timer too coarse for any ratio). The value is of all samples;
        the interval of more than 200,000 is that of every third, fifth, ... pair, and as wide as theirs.
    """
    base, other = series_of(a), series_of(b)
    if base.shape != other.shape:
        raise ValueError(f"{base.size} and {other.size} samples are not pairs")
    if base.size < fewest_samples(q) or np.quantile(base, q) <= 0:
        return None
    both = np.stack([base, other])
    spread = _spread(both)
    block = max(map(block_length, spread))
    resampled = _resample(lambda index: _ratios(spread[:, index], q)[None], spread.shape[1], block, seed, resamples)
    low, high = _percentile_ends(resampled, confidence)
    p90 = _ratio(both, 0.9) if base.size >= fewest_samples(0.9) else None
    return Ratio(_interval(_ratio(both, q), low[0], high[0]), p90)


def _spread(both: Samples) -> Samples:
    """(2, n) pairs -> at most ``_MOST_RESAMPLED`` of them, evenly over the run.

    An odd step: of ABBA every second round has the same artifact first. Not means of neighbours, whose quantiles are others.
    """
    step = -(-both.shape[1] // _MOST_RESAMPLED)
    return both[:, :: step | 1]


def ratio_quantile(threads: int) -> float:
    """Which quantile to compare: p25 on one thread; p10 on several, where any late worker delays the query (A/A study)."""
    return 0.25 if threads == 1 else 0.10


def block_length(samples: Samples) -> int:
    """Consecutive samples that are resampled together.

    E. Carlstein, "The use of subseries values for estimating the variance of a general statistic", Annals of Statistics 14 (1986)
    1171-1179: (2 rho / (1 - rho^2))^(2/3) n^(1/3) for an AR(1) of lag-1 autocorrelation rho. At least ``SHORTEST_BLOCK``, at most a
    ``FEWEST_BLOCKS``-th of the series. rho is that of the ranks, so that one spike of 30 times the median does not hide the rest.
    """
    series = series_of(samples)
    rho = min(max(autocorrelation(ranks(series)), 0.0), 0.99)
    wanted = ceil(float(np.cbrt((2 * rho / (1 - rho**2)) ** 2 * series.size)))
    return max(1, min(max(wanted, SHORTEST_BLOCK), int(series.size) // FEWEST_BLOCKS))


def autocorrelation(samples: Samples) -> float:
    """Lag-1 autocorrelation, in [-1, 1] (Box, Jenkins, Reinsel, Time Series Analysis, 2.1.5); 0 when constant or of fewer than 3."""
    series = series_of(samples)
    centred = series - series.mean()
    power = float(centred @ centred)
    # A constant series leaves only the rounding of its mean behind.
    if series.size < 3 or power <= series.size * (1e-12 * float(np.abs(series).max())) ** 2:
        return 0.0
    return float(centred[1:] @ centred[:-1]) / power


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
    early, limit = series_of(warm_up), np.quantile(series_of(steady), 0.9)
    windows = np.lib.stride_tricks.sliding_window_view(early, min(3, early.size))
    settled = np.flatnonzero(np.median(windows, axis=1) <= limit)
    return int(settled[0]) if settled.size else None


def histogram(samples: Samples, bins: int = 32) -> Histogram:
    """Equal bins for the body of the samples, and one last bin from there to the largest.

    The tail of a latency is long: bins equal up to the largest sample would put all but one in the first. The body ends at p99 or at
    Tukey's outer fence, three interquartile ranges above the upper quartile (Exploratory Data Analysis, 1977, 2D), whichever is lower.
    At most sqrt(n) bins, so that most hold something. One bin when all samples are equal.
    """
    series = series_of(samples)
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


def series_of(samples: Samples) -> Samples:
    """As float64; ValueError for what is no series of finite times >= 0."""
    series = np.asarray(samples, np.float64)
    if series.ndim != 1 or series.size == 0 or not np.isfinite(series).all() or series.min() < 0:
        raise ValueError(f"samples of shape {series.shape} are not a series of finite times")
    return series


def _check_quantile(q: float) -> None:
    if not 0 < q < 1:
        raise ValueError(f"quantile {q} is not between 0 and 1")


def _resample(statistic: Callable[[NDArray[np.int64]], Samples], size: int, block: int, seed: int, resamples: int) -> Samples:
    """``statistic`` of resampled series.

    Args:
        statistic: from positions (r, size) to values (k, r).

    Returns:
        (k, resamples)
    """
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // size)
    counts = [min(rows, resamples - start) for start in range(0, resamples, rows)]
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


def _percentile_ends(resampled: Samples, confidence: float) -> tuple[Samples, Samples]:
    """The points between which ``confidence`` lies, along the last axis, as observed values: interpolating between infinities gives NaN."""
    ends = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2], axis=-1, method="nearest")
    return ends[0], ends[1]


def _interval(value: float, low: float, high: float) -> Interval:
    """With the estimate inside: in short series every resample can lie on one side of it."""
    return Interval(float(value), float(min(low, value)), float(max(high, value)))


def ranks(series: Samples) -> Samples:
    """Mid-ranks: equal samples share theirs, or a coarse clock's ties would count as a trend."""
    _, inverse, counts = np.unique(series, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts).astype(np.float64)
    ranks: Samples = (ends - (counts - 1) / 2)[inverse]
    return ranks


def _normal_scores(series: Samples) -> Samples:
    """Normal quantiles of the ranks: the marginal distribution is gone, the dependence stays."""
    scores: Samples = np.interp((ranks(series) - 0.5) / series.size, *_normal_levels())
    return scores


@cache
def _normal_levels() -> tuple[Samples, Samples]:
    """The normal distribution function on a fine grid, and the grid: interpolating in it costs no call a sample."""
    grid = np.linspace(-6, 6, 4097)
    return np.array([NormalDist().cdf(x) for x in grid]), grid


def _autocorrelations(values: Samples) -> Samples:
    """Autocorrelations at lags 0 .. n - 1, by the Fourier transform; a constant has none but the first."""
    centred = values - values.mean()
    transformed = np.fft.rfft(centred, 1 << (2 * values.size - 1).bit_length())
    covariances: Samples = np.fft.irfft(np.abs(transformed) ** 2)[: values.size]
    none: Samples = np.eye(1, values.size)[0]
    autocorrelations: Samples = covariances / covariances[0] if covariances[0] > 0 else none
    return autocorrelations


def _indicator_autocorrelations(scores: Samples, q: float) -> Samples:
    """Autocorrelations of "a sample is below quantile q", were the normal scores jointly normal.

    Mehler's expansion: sum over j >= 1 of r^j / j! (He_(j-1)(z) phi(z))^2 / (q (1 - q)) (M. R. Leadbetter and others, Extremes and Related
    Properties of Random Sequences and Processes, 1983, 4.2). Of an indicator with ten samples on its rarer side the autocorrelations
    themselves are mostly noise; those of the scores rest on all samples.
    """
    z, r = NormalDist().inv_cdf(q), np.clip(scores, 0, 1)
    before, hermite, factorial, power, total = 0.0, 1.0, 1.0, np.ones_like(r), np.zeros_like(r)
    for j in range(1, _HERMITE + 1):
        factorial, power = factorial * j, power * r
        total += power * hermite**2 / factorial
        before, hermite = hermite, z * hermite - (j - 1) * before
    found: Samples = np.where(scores > 0, total * NormalDist().pdf(z) ** 2 / (q * (1 - q)), scores)
    found[0] = 1
    return found


def _inflation(autocorrelations: Samples) -> float:
    """How many dependent samples are worth an independent one, at least 1.

    1 + 2 sum of r_k as long as sums of neighbouring pairs are positive, and no larger than the one before (the initial monotone sequence
    of C. J. Geyer, "Practical Markov chain Monte Carlo", Statistical Science 7 (1992) 473-483). Subtracting the mean takes 1 / n of the
    spectrum at 0 off every lag, so that M lags on both sides lose 2 M / n of the sum, which is given back.
    """
    n = autocorrelations.size
    pairs = autocorrelations[: n // 2 * 2].reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0)
    used = np.minimum.accumulate(pairs[: ends[0] if ends.size else pairs.size])
    lost = min(4 * used.size / n, 0.5) if used.size > 1 else 0.0
    return max(1.0, (2 * float(used.sum()) - 1) / (1 - lost))


def _order_levels(worth: int, q: float) -> tuple[float, float]:
    """Levels, in (0, 1], of the order statistics of ``worth`` independent samples that enclose quantile ``q``.

    Exact: the r-th smallest is above the quantile when at most r - 1 samples are below it, a binomial (H. A. David, H. N. Nagaraja, Order
    Statistics, 3rd ed., 7.1).
    """
    k, tail = np.arange(worth + 1), (1 - CONFIDENCE) / 2
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, worth + 1)))])
    reached = np.cumsum(np.exp(logs[-1] - logs - logs[::-1] + k * np.log(q) + (worth - k) * np.log1p(-q)))
    low, high = int(np.searchsorted(reached, tail, "right")), int(np.searchsorted(reached, 1 - tail)) + 1
    return low / (worth + 1), min(high / (worth + 1), 1.0)
