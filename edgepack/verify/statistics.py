"""Intervals for accuracies and for the difference of two accuracies on the same samples. Pure numpy and the standard library."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgepack.pack.manifest import Estimate


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """The Wilson score interval of a proportion.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927) 209-212; chosen over the Wald
    interval as in L. D. Brown, T. T. Cai, A. DasGupta, Statistical Science 16 (2001) 101-133: it keeps its coverage near 0 and 1, where
    accuracies live, and never leaves [0, 1].

    Raises:
        ValueError: ``n`` is 0, or ``successes`` is not in 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is not a proportion")
    z = _z(confidence)
    proportion = successes / n
    centre = (proportion + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * sqrt(proportion * (1 - proportion) / n + z**2 / (4 * n**2))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Estimate(proportion, 0.0 if successes == 0 else low, 1.0 if successes == n else high)


def paired_drop(correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_], confidence: float = 0.95) -> Estimate:
    """How much accuracy ``b`` loses against ``a`` on the same samples: ``mean(a) - mean(b)``, positive when ``b`` is worse.

    The adjusted Wald interval for paired proportions of D. G. Bonett and R. M. Price, "Adjusted Wald confidence interval for a difference
    of binomial proportions based on paired data", J. Educational and Behavioral Statistics 37 (2012) 479-488: one is added to both counts
    of disagreement and two to n. ``value`` is the plain difference; the interval is centred on the adjusted one and cut at -1 and 1.

    Args:
        correct_a, correct_b: (samples,) bool, the same samples in the same order.

    Raises:
        ValueError: shapes differ or there is no sample.
    """
    if correct_a.shape != correct_b.shape or correct_a.ndim != 1 or correct_a.size == 0:
        raise ValueError(f"results of shapes {correct_a.shape} and {correct_b.shape} are not paired samples")
    n = correct_a.size
    only_a = int(np.count_nonzero(correct_a & ~correct_b))
    only_b = int(np.count_nonzero(~correct_a & correct_b))
    low, high = _bonett_price(only_a, only_b, n, _z(confidence))
    return Estimate((only_a - only_b) / n, low, high)


def _bonett_price(only_a: int, only_b: int, n: int, z: float) -> tuple[float, float]:
    p_a, p_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = z * sqrt((p_a + p_b - (p_a - p_b) ** 2) / (n + 2))
    return max(-1.0, p_a - p_b - half), min(1.0, p_a - p_b + half)


def _z(confidence: float) -> float:
    """The two-sided normal quantile: 1.96 for 0.95."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)
