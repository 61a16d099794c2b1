"""What spoils a series of query times, found in the samples alone. Pure numpy; each detector says nothing of undisturbed noise.

A finding must be sure and must matter. Sure: its test has a false-alarm rate of at most ``ALARM`` on independent samples, whatever their
distribution (simulated by ``benchmarks/latency_statistics.py``). Matter: it moves times by more than ``MATTERS``.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgepack.latency.statistics import Samples, autocorrelation, ranks, series_of

# Of each test, on independent samples; the bar is 1 %, and half of it leaves room for what an approximation of a tail is off by.
ALARM = 0.005
_Z = NormalDist().inv_cdf(1 - ALARM / 2)

# The smallest change that a build is asked to find is 5 %: a disturbance of that size can make one or hide one.
MATTERS = 1.05

# Medians of at least five samples, one disturbed in each being no matter, and at most 64 of them: the tests below are quadratic.
_SMALLEST_BLOCK, _MOST_BLOCKS = 5, 64
# Pettitt's p-value is below ALARM for a step at a fifth of the series from 34 blocks, for one in the middle from 17.
_FEWEST_BLOCKS = 17

# Slow queries are a mode of their own from half the share that has to be found, 10 %, and a tenth slower: the least clock step of a
# governor (Raspberry Pi: 1500 to 1000 MHz, phones: 10 to 20 % a step).
_SLOW_SHARE, _SLOW = 0.05, 1.10
# Widths of gap and mode, of the median: one about as wide as the mode finds it best, so 5 to 80 % in steps of the root of 2.
_WIDTHS = tuple(0.05 * 2 ** (step / 2) for step in range(9))
# The largest of n normal variables is near sqrt(2 ln n), and n windows are compared, with others: so much above it a difference of counts
# has to be, in standard deviations, for at most ALARM of simulated series without a second mode, 60 to 3000 samples. The worst are flat
# (uniform) ones, whose 99.5 % points are 4.2 at 300 and 4.4 at 1024.
_MODE_Z = 0.85

# Neighbouring samples that leave half their number: (1 - rho) / (1 + rho) = 1/2 (Bayley, Hammersley, 1946).
_CORRELATED = 1 / 3


@dataclass(frozen=True)
class Shift:
    """Times after over times before; ``at``: where in the series, as a share of its samples (a drift has no place: 0.5)."""

    kind: str
    factor: float
    at: float


@dataclass(frozen=True)
class Throttling:
    """Which share of queries took how many times as long as the others; ``together``: one after the other rather than scattered."""

    share: float
    factor: float
    together: bool


def shift(samples: Samples) -> Shift | None:
    """The step or the drift of a series: where both are found, the one that leaves the smaller absolute residuals of block medians."""
    found = step(samples), drift(samples)
    if None in found:
        return found[0] or found[1]
    medians = block_medians(samples)
    return found[0] if _residual_of_step(medians) <= _residual_of_line(medians) else found[1]


def step(samples: Samples) -> Shift | None:
    """A level that changed once.

    A. N. Pettitt, "A non-parametric approach to the change-point problem", Applied Statistics 28 (1979) 126-135, on block medians:
    K = max |U_t|, p about 2 exp(-6 K^2 / (m^3 + m^2)) for m blocks, an upper bound where it is small.
    """
    medians = block_medians(samples)
    m = medians.size
    if m < _FEWEST_BLOCKS:
        return None
    u = np.abs(_pettitt(medians))
    cut = int(u.argmax()) + 1
    factor = _over(np.median(medians[cut:]), np.median(medians[:cut]))
    sure = 2 * np.exp(-6 * float(u.max()) ** 2 / (m**3 + m**2)) <= ALARM
    return Shift("step", factor, cut / m) if sure and _matters(factor) else None


def drift(samples: Samples) -> Shift | None:
    """A level that changes all the time.

    Sure: Kendall's tau of block medians against time, normal with variance m (m - 1) (2m + 5) / 18 (H. B. Mann, "Nonparametric tests
    against trend", Econometrica 13 (1945) 245-259). Factor: p25 of the last third over p25 of the first, as in the A/A study.
    """
    medians = block_medians(samples)
    m = medians.size
    if m < _FEWEST_BLOCKS:
        return None
    concordant = float(np.triu(_signs(medians)).sum())
    series = series_of(samples)
    first, last = (np.quantile(part, 0.25) for part in (series[: series.size // 3], series[-(series.size // 3) :]))
    factor = _over(last, first)
    sure = abs(concordant) > _Z * np.sqrt(m * (m - 1) * (2 * m + 5) / 18)
    return Shift("drift", factor, 0.5) if sure and _matters(factor) else None


def throttling(samples: Samples) -> Throttling | None:
    """Queries slowed in a stretch, or scattered but slow enough to be a mode of their own; the stretch where both are found."""
    return slow_stretch(samples) or second_mode(samples)


def slow_stretch(samples: Samples) -> Throttling | None:
    """A stretch of a twentieth of the series that holds too many of its slowest fifth.

    The count in one of 20 stretches is hypergeometric, and no more spread than binomial; 39 stretches (every half of one) are looked at,
    so each may err with ALARM / 39 (Bonferroni). Then all stretches that are as slow as it tell the share.
    """
    series = series_of(samples)
    width = series.size // 20
    if width < _SMALLEST_BLOCK:
        return None
    slow = series > np.quantile(series, 0.8)
    starts = np.arange(0, series.size - width + 1, max(1, width // 2))
    counts = np.array([slow[start : start + width].sum() for start in starts])
    if counts.max() < _most_by_chance(width, 0.2, ALARM / 39):
        return None
    held = np.zeros(series.size, bool)
    for start in starts[counts >= _most_by_chance(width, 0.2, ALARM / 39)]:
        held[start : start + width] = True
    return _slowed(series, held, together=True)


def second_mode(samples: Samples) -> Throttling | None:
    """A gap above the median with a mode beyond it.

    Where the density does not rise, a window holds on average no more samples than one as wide that is nearer to the mode: of the two
    counts the farther one exceeds the nearer by z standard deviations, sqrt(their sum), of a binomial of 1/2. This is the bump hunting of
    M. C. Minnotte, "Nonparametric testing of the existence of modes", Annals of Statistics 25 (1997) 1646-1660, on the slow side only.
    """
    series = series_of(samples)
    x, median = np.sort(series), float(np.median(series))
    z, cut = max(_deepest_gap(x, width * median) for width in _WIDTHS)
    return _slowed(series, series > cut, together=False) if z > np.sqrt(2 * np.log(x.size)) + _MODE_Z else None


def correlated(samples: Samples) -> float | None:
    """Lag-1 autocorrelation of the ranks where it leaves less than half of the samples; of n independent ones it is normal, 1 / sqrt(n)."""
    series = series_of(samples)
    rho = autocorrelation(ranks(series))
    return rho if rho > max(_CORRELATED, _Z / np.sqrt(series.size)) else None


def block_medians(samples: Samples) -> Samples:
    """Medians of consecutive stretches that together hold every sample."""
    series = series_of(samples)
    count = max(1, min(_MOST_BLOCKS, series.size // _SMALLEST_BLOCK))
    return np.array([np.median(part) for part in np.array_split(series, count)])


def _pettitt(medians: Samples) -> Samples:
    """U_t for t = 1 .. m - 1: of pairs across the cut after t, those that rise minus those that fall."""
    signs = _signs(medians)
    return np.array([signs[:t, t:].sum() for t in range(1, medians.size)])


def _signs(medians: Samples) -> NDArray[np.float64]:
    """(i, j) -> sign of the j-th minus the i-th."""
    signs: NDArray[np.float64] = np.sign(medians[None, :] - medians[:, None])
    return signs


def _residual_of_step(medians: Samples) -> float:
    cut = int(np.abs(_pettitt(medians)).argmax()) + 1
    return sum(float(np.abs(part - np.median(part)).sum()) for part in (medians[:cut], medians[cut:]))


def _residual_of_line(medians: Samples) -> float:
    """About the Theil-Sen line (P. K. Sen, JASA 63 (1968) 1379-1389)."""
    place = np.arange(medians.size)
    earlier, later = np.triu_indices(medians.size, 1)
    slope = np.median((medians[later] - medians[earlier]) / (later - earlier))
    rest = medians - slope * place
    return float(np.abs(rest - np.median(rest)).sum())


def _deepest_gap(x: Samples, width: float) -> tuple[float, float]:
    """The largest z of a mode beyond a gap, and where the mode begins; x: sorted samples."""
    n = x.size
    first, last = n // 2, n - max(1, int(_SLOW_SHARE * n))
    here = x[first : last + 1]
    gap = np.searchsorted(x, here + width, "right") - np.searchsorted(x, here, "right")
    # The most that a window as wide holds, of all that begin at a sample from each on.
    held = np.searchsorted(x, x + width, "right") - np.arange(n)
    beyond = np.append(np.maximum.accumulate(held[::-1])[::-1], 0)[np.searchsorted(x, here + width, "right")]
    z = (beyond - gap) / np.sqrt(np.maximum(beyond + gap, 1))
    best = int(z.argmax())
    return float(z[best]), float(here[best] + width / 2)


def _slowed(series: Samples, slow: NDArray[np.bool_], *, together: bool) -> Throttling | None:
    """How much of the series and how much slower; None where it is too little of either."""
    share = float(slow.mean())
    if not _SLOW_SHARE <= share < 1:
        return None
    factor = _over(np.median(series[slow]), np.median(series[~slow]))
    return Throttling(share, factor, together) if factor >= _SLOW else None


def _most_by_chance(draws: int, share: float, chance: float) -> int:
    """The smallest count that a binomial reaches with at most ``chance``."""
    k = np.arange(draws + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, draws + 1)))])
    mass = np.exp(logs[-1] - logs - logs[::-1] + k * np.log(share) + (draws - k) * np.log1p(-share))
    reached = np.cumsum(mass[::-1])[::-1]
    return int(np.searchsorted(-reached, -chance))


def _over(later: np.floating, earlier: np.floating) -> float:
    return float(later / earlier) if earlier > 0 else 1.0


def _matters(factor: float) -> bool:
    return not 1 / MATTERS <= factor <= MATTERS
