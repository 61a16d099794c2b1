"""How far two tensors are apart, and which class they name. Pure numpy: it runs wherever a runner runs.

Non-finite numbers are never averaged away: a NaN or infinity in ``actual`` makes every distance its worst value (SQNR -inf, error inf,
cosine 0, class -1), and one in ``reference`` is a ValueError, because nothing can be judged by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The class of a row that names none.
NO_CLASS = -1

# The label of a pixel that is not judged: Pascal VOC's and Cityscapes' "void". With more than 255 classes it is a class like any other.
VOID = 255


@dataclass(frozen=True)
class PixelCounts:
    """How many pixels of each image are of each class; all int64 (samples, classes), pixels labelled ``VOID`` left out.

    Attributes:
        both: where answer and mask name the class. found: where the answer does. wanted: where the mask does.
    """

    both: NDArray[np.int64]
    found: NDArray[np.int64]
    wanted: NDArray[np.int64]

    @property
    def union(self) -> NDArray[np.int64]:
        """Where the answer, the mask or both name the class."""
        return self.found + self.wanted - self.both


def non_finite(values: NDArray[Any]) -> int:
    """How many elements are NaN or infinite (any shape, any real dtype)."""
    return int(values.size - np.count_nonzero(np.isfinite(values)))


# Samples of which a spread can be told.
_FEWEST = 2


def sqnr_db(reference: NDArray[Any], actual: NDArray[Any]) -> float:
    """Signal to quantization noise ratio, ``10 log10(sum reference^2 / sum (reference - actual)^2)``, summed in float64.

    Args:
        reference, actual: same shape, any real dtype; all elements of all samples count alike.

    Returns:
        Decibels; inf when equal, -inf when ``actual`` is not finite or the reference is all zero and ``actual`` is not.

    Raises:
        ValueError: shapes differ, there is no element, or ``reference`` is not finite.
    """
    signal, noise = _comparable(reference, actual)
    if not np.isfinite(noise).all():
        return -np.inf
    scale = max(float(np.abs(signal).max()), float(np.abs(noise).max()))
    if scale == 0 or not noise.any():
        return np.inf
    # Scaled to 1 before squaring: neither 1e-200 nor 1e200 may leave the range of float64.
    noise_power = float(np.sum(np.square(noise / scale)))
    signal_power = float(np.sum(np.square(signal / scale)))
    with np.errstate(divide="ignore"):
        return float(10 * (np.log10(signal_power) - np.log10(noise_power)))


def max_abs_error(reference: NDArray[Any], actual: NDArray[Any]) -> float:
    """The largest ``|reference - actual|``, inf when ``actual`` is not finite. Arguments and errors as ``sqnr_db``."""
    _, noise = _comparable(reference, actual)
    return float(np.abs(noise).max()) if np.isfinite(noise).all() else np.inf


def cosine(reference: NDArray[Any], actual: NDArray[Any]) -> float:
    """Cosine of the angle between the flattened tensors, in [-1, 1].

    1 when both are all zero; 0 when one of them is, or when ``actual`` is not finite. Arguments and errors as ``sqnr_db``.
    """
    signal, noise = _comparable(reference, actual)
    if not np.isfinite(noise).all():
        return 0.0
    if not noise.any():
        return 1.0
    a, b = _unit(signal), _unit(signal - noise)
    return float(np.clip(np.dot(a, b), -1, 1))


def top1(scores: NDArray[Any]) -> NDArray[np.int64]:
    """The class with the largest score, the first of equals (numpy.argmax, ONNX ArgMax-13 with select_last_index 0).

    Args:
        scores: (samples, classes), any real dtype.

    Returns:
        (samples,) int64; ``NO_CLASS`` for a row that holds a NaN.
    """
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ValueError(f"scores have shape {scores.shape}, not (samples, classes)")
    return np.where(np.isnan(scores).any(axis=1), NO_CLASS, scores.argmax(axis=1)).astype(np.int64)


def probabilities(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Rows of class scores as distributions: as they are when every row is one already, else by softmax.

    Args:
        scores: (samples, classes), finite.
    """
    exact = scores.astype(np.float64)
    # An int8 softmax has steps of 1/256: each class may be half of one off.
    slack = 1e-2 + exact.shape[1] / 512
    if exact.min() >= 0 and exact.max() <= 1.01 and (np.abs(exact.sum(axis=1) - 1) < slack).all():
        return exact
    exponent = np.exp(exact - exact.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = exponent / exponent.sum(axis=1, keepdims=True)
    return result


def agreement(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """The fraction of samples for which both name the same class; ``NO_CLASS`` agrees with nothing. Shapes (samples,)."""
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"classes of shapes {a.shape} and {b.shape} cannot be compared")
    return float(np.mean((a == b) & (a != NO_CLASS)))


def pixel_classes(scores: NDArray[Any], axis: int) -> NDArray[np.int64]:
    """The class with the largest score at every pixel, the first of equals; ``NO_CLASS`` where one of them is NaN.

    Args:
        scores: any shape with the classes on ``axis``, which the result lacks.
    """
    return np.where(np.isnan(scores).any(axis=axis), NO_CLASS, scores.argmax(axis=axis)).astype(np.int64)


def judged_pixels(masks: NDArray[np.integer[Any]], classes: int) -> NDArray[np.bool_]:
    """Where a mask names a class: everywhere but at ``VOID``. Any shape."""
    return np.asarray((masks != VOID) | (classes > VOID))


def count_pixels(answer: NDArray[np.integer[Any]], masks: NDArray[np.integer[Any]], classes: int) -> PixelCounts:
    """Count the pixels of each class in each image.

    Args:
        answer: classes, (samples, ...); one outside 0..classes - 1, such as ``NO_CLASS``, is of no class and thereby wrong.
        masks: the right classes, of the same shape; ``VOID`` where there is none.

    Raises:
        ValueError: the shapes differ, nothing is there to count, or a mask names no class.
    """
    if answer.shape != masks.shape or masks.size == 0:
        raise ValueError(f"classes of shapes {answer.shape} and {masks.shape} cannot be compared")
    judged = judged_pixels(masks, classes)
    if (masks[judged] < 0).any() or (masks[judged] >= classes).any():
        raise ValueError(f"a mask holds labels outside 0..{classes - 1}")
    named = judged & (answer >= 0) & (answer < classes)
    return PixelCounts(
        both=_by_class(masks, judged & (answer == masks), classes),
        found=_by_class(answer, named, classes),
        wanted=_by_class(masks, judged, classes),
    )


def mean_iou(counts: PixelCounts) -> float:
    """Mean over classes of intersection over union, both summed over all images (Everingham et al. 2015, "The Pascal VOC Challenge: A
    Retrospective", section 4.1.2). A class that neither an answer nor a mask names is left out of the mean.

    Raises:
        ValueError: no class is named anywhere.
    """
    both, union = counts.both.sum(axis=0), counts.union.sum(axis=0)
    if not union.any():
        raise ValueError("no pixel of any class is judged")
    return float((both[union > 0] / union[union > 0]).mean())


def _by_class(classes: NDArray[np.integer[Any]], chosen: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """The chosen pixels of each image and class: (samples, ...) -> (samples, count)."""
    images = np.arange(len(classes)).reshape(-1, *[1] * (classes.ndim - 1)) * count
    places = (images + classes.astype(np.int64))[chosen]
    return np.bincount(places, minlength=len(classes) * count).reshape(len(classes), count)


def _comparable(reference: NDArray[Any], actual: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The flattened reference and its distance to ``actual``, in float64."""
    if reference.shape != actual.shape or reference.size == 0:
        raise ValueError(f"tensors of shapes {reference.shape} and {actual.shape} cannot be compared")
    signal = reference.astype(np.float64).ravel()
    if not np.isfinite(signal).all():
        raise ValueError(f"the reference holds {non_finite(signal)} NaN or infinite values")
    return signal, signal - actual.astype(np.float64).ravel()


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The vector at length 1; zero stays zero."""
    largest = np.abs(vector).max()
    if largest == 0:
        return vector
    scaled = vector / largest
    return np.asarray(scaled / np.linalg.norm(scaled), np.float64)


def gap_standard_error(reference: NDArray[Any], first: NDArray[Any], second: NDArray[Any]) -> float:
    """Standard error in dB of ``sqnr_db(reference, first) - sqnr_db(reference, second)``, the samples on the first axis being the chance.

    The jackknife of a ratio of sums (Efron & Stein 1981, "The Jackknife Estimate of Variance"); 0 when one of the two is exact without
    some sample, or there are fewer than two.
    """
    powers = [np.square(other.astype(np.float64) - reference).reshape(len(reference), -1).sum(axis=1) for other in (first, second)]
    left_out = [power.sum() - power for power in powers]
    if len(reference) < _FEWEST or not all((power > 0).all() and np.isfinite(power).all() for power in left_out):
        return 0.0
    gaps = 10 * np.log10(left_out[1] / left_out[0])
    return float(np.sqrt((len(gaps) - 1) * np.square(gaps - gaps.mean()).mean()))
