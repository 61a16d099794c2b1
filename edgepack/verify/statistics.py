"""Intervals for accuracies and mean IoUs, and for the difference of two on the same samples. Pure numpy and the standard library."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgepack.pack.manifest import Estimate
from edgepack.verify.metrics import PixelCounts, mean_iou

# Resamples of a bootstrap: the ends of a 95 % interval then rest on the 50 outermost (Efron & Tibshirani 1993, section 13.3, ask for 1000).
_RESAMPLES = 2000


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


def bootstrap_mean_iou(counts: PixelCounts, confidence: float = 0.95) -> Estimate:
    """Mean IoU with the bootstrap's percentile interval, images being the chance (Efron & Tibshirani 1993, chapter 13).

    Images are drawn again with replacement, always the same draws. Pixels of one image are no independent samples: the interval says what
    another set of as many images would do. Errors as ``mean_iou``.
    """
    return _percentiles(mean_iou(counts), _mean_ious(counts, _draws(len(counts.both))), confidence)


def paired_mean_iou_drop(a: PixelCounts, b: PixelCounts, confidence: float = 0.95) -> Estimate:
    """How much mean IoU ``b`` loses against ``a`` on the same images: positive when ``b`` is worse. Bootstrapped as ``bootstrap_mean_iou``.

    Raises:
        ValueError: the two do not count the same images and classes, or as ``mean_iou``.
    """
    if not np.array_equal(a.wanted, b.wanted):
        raise ValueError("the counts are of different masks: no paired images")
    draws = _draws(len(a.both))
    return _percentiles(mean_iou(a) - mean_iou(b), _mean_ious(a, draws) - _mean_ious(b, draws), confidence)


def _draws(images: int) -> NDArray[np.int64]:
    """How often each image is drawn in each resample: (resamples, images)."""
    return np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=_RESAMPLES)


def _mean_ious(counts: PixelCounts, draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean IoU of each resample, (resamples,); NaN where it holds no judged pixel."""
    both, union = draws @ counts.both, draws @ counts.union
    present = union > 0
    shares = np.where(present, both / np.maximum(union, 1), 0).sum(axis=1)
    classes = present.sum(axis=1)
    return np.where(classes > 0, shares / np.maximum(classes, 1), np.nan)


def _percentiles(value: float, resampled: NDArray[np.float64], confidence: float) -> Estimate:
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(resampled, (tail, 1 - tail))
    return Estimate(value, float(low), float(high))


def _bonett_price(only_a: int, only_b: int, n: int, z: float) -> tuple[float, float]:
    p_a, p_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = z * sqrt((p_a + p_b - (p_a - p_b) ** 2) / (n + 2))
    return max(-1.0, p_a - p_b - half), min(1.0, p_a - p_b + half)


def _z(confidence: float) -> float:
    """The two-sided normal quantile: 1.96 for 0.95."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    return NormalDist().inv_cdf((1 + confidence) / 2)
