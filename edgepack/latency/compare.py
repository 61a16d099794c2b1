"""Whether one artifact is slower than another: interleaved samples, more of them while they do not tell, and a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepack.errors import StepError
from edgepack.latency import statistics
from edgepack.pack.manifest import Comparison, Estimate, Verdict

# A/A study, 300 interleaved pairs: "slower when the lower end is above 1.03" gave 0 false alarms in 270 trials and found +5 % in 30 of 30;
# "the interval excludes 1" gave up to 57 % false alarms.
MARGIN = 0.03

# The study's pairs; doubled four times, 4800, which makes the interval four times narrower.
PAIRS, LOOKS = 300, 5

# Ends of the interval are then the 10th of each side at five looks: 2000 * 0.05 / 5 / 2.
_RESAMPLES = 2000


class ComparisonError(StepError):
    """Samples that no comparison can be made of."""


@dataclass(frozen=True)
class Pairs:
    """Nanoseconds (n,) of two artifacts taken in turn (ABBA), ``base`` being the one that is compared with."""

    base: NDArray[np.int64]
    other: NDArray[np.int64]

    def __add__(self, more: Pairs) -> Pairs:
        return Pairs(np.concatenate([self.base, more.base]), np.concatenate([self.other, more.other]))


@dataclass(frozen=True)
class Outcome:
    """What a comparison found; the fields are those of ``manifest.Comparison``. ``looks``: how often the samples were judged."""

    quantile: float
    ratio: Estimate
    p90_ratio: float | None
    margin: float
    pairs: int
    verdict: Verdict
    looks: int

    def against(self, artifact: str, invalid: tuple[str, ...] = ()) -> Comparison:
        """The manifest's record; artifact: sha256 of the other one, invalid: what spoiled the samples."""
        return Comparison(artifact, self.quantile, self.ratio, self.p90_ratio, self.margin, self.pairs, self.verdict, invalid)


def compare(
    measure_more: Callable[[int], Pairs | None],
    margin: float = MARGIN,
    threads: int = 1,
    pairs: int = PAIRS,
    looks: int = LOOKS,
    seed: int = 0,
) -> Outcome:
    """Judge after ``pairs`` rounds, and after twice as many while the verdict is inconclusive, at most ``looks`` times.

    All samples of all rounds are judged together; none is set aside for disagreeing. Looking again until something is found would
    inflate false alarms (P. Armitage, C. K. McPherson, B. C. Rowe, JRSS A 132 (1969) 235-244: five looks at 5 % make 14 %). So each look
    gets an equal part of the error (Bonferroni): its interval is of 1 - 5 % / ``looks``, and the intervals of all looks hold the true
    ratio together with 95 %. That is the interval in the result. tests/latency/test_compare.py simulates it at a true ratio of exactly
    1 + margin, where alarms are likeliest.

    Args:
        measure_more: measures that many more rounds, best with sessions loaded anew: where a model lies in memory moves its time too.
            None where there is no time for them: the verdict stays what it was. It must not depend on the samples.
        margin: how much slower or faster counts, above 0; 0.03 is 3 %.
        threads: of the runtime; p25 is compared on one, p10 on several.
        pairs: of the first look. seed: of the bootstrap.

    Raises:
        ComparisonError: too few rounds, rounds that are no pairs, negative times, or a clock that reads 0.
    """
    if not margin > 0 or looks < 1:
        raise ComparisonError(f"a margin of {margin:g} in {looks} looks decides nothing", "give a margin above 0, such as 0.03")
    held = found = None
    for look in range(1, looks + 1):
        more = measure_more(pairs if held is None else held.base.size)
        if more is None:
            break
        held = more if held is None else held + more
        found = judge(held, margin, threads, confidence=1 - 0.05 / looks, seed=seed, looks=look)
        if found.verdict != "inconclusive":
            break
    if found is None:
        raise ComparisonError("no round was measured", "allow a comparison more time")
    return found


def judge(held: Pairs, margin: float, threads: int, confidence: float = statistics.CONFIDENCE, seed: int = 0, looks: int = 1) -> Outcome:
    """One look at samples; see ``compare``."""
    if held.base.shape != held.other.shape or held.base.ndim != 1:
        raise ComparisonError(f"{held.base.shape} and {held.other.shape} samples are not pairs", "time both artifacts in one run")
    if held.base.size and min(held.base.min(), held.other.min()) < 0:
        raise ComparisonError("there are negative times: the clock went back", "compare on a device with a steady clock")
    q = statistics.ratio_quantile(threads)
    fewest = statistics.fewest_samples(q)
    if held.base.size < fewest:
        raise ComparisonError(f"{held.base.size} rounds are too few to compare p{100 * q:.0f}", f"measure at least {fewest}")
    a, b = held.base.astype(np.float64), held.other.astype(np.float64)
    found = statistics.ratio(a, b, q, seed, confidence, _RESAMPLES)
    if found is None or not np.isfinite(found.typical.high):
        raise ComparisonError("the clock reads 0 for whole queries", "time several queries as one (inner)")
    interval = found.typical
    estimate = Estimate(interval.value, interval.low, interval.high)
    return Outcome(q, estimate, found.p90, margin, held.base.size, verdict(estimate, margin), looks)


def verdict(ratio: Estimate, margin: float) -> Verdict:
    """By where the interval of the ratio lies: beyond the margin on either side, within it on both, or neither.

    "no difference" is the confidence-interval form of an equivalence test (D. J. Schuirmann, "A comparison of the two one-sided tests
    procedure and the power approach", J. Pharmacokinetics and Biopharmaceutics 15 (1987) 657-680): not finding one is not enough.
    """
    low, high = 1 / (1 + margin), 1 + margin
    if ratio.low > high:
        return "regression"
    if ratio.high < low:
        return "improvement"
    return "no difference" if low <= ratio.low and ratio.high <= high else "inconclusive"
