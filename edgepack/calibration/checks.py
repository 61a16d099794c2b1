"""What samples must be before anything is computed from them: there, of the right shape, type and range, and not leaked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.calibration.manifest import CalibrationError
from edgepack.calibration.readers import Samples
from edgepack.student.spec import TensorSpec
from edgepack.verify.metrics import judged_pixels

# Resampling and normalization in float32 leave the exact bounds by a few units in the last place; 1e-3 of the range is far above that
# and far below what a forgotten division by 255 does.
_RANGE_SLACK = 1e-3


def checked(samples: Samples, inputs: Sequence[TensorSpec], classes: int, kind: str) -> Samples:
    """The samples, unchanged, once they are known to be usable.

    Args:
        samples: as read.
        inputs: the student's inputs.
        classes: number of labels, 0 when the student declares none.
        kind: "calibration" or "evaluation", for messages.

    Raises:
        CalibrationError: the set is empty, or names the first sample that is not right and why.
    """
    for spec in inputs:
        _check_array(samples.arrays[spec.name], spec, kind)
    counts = {spec.name: len(samples.arrays[spec.name]) for spec in inputs}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} of '{name}'" for name, count in counts.items())
        raise CalibrationError(f"the {kind} set holds {listed}", "give every sample all inputs")
    if samples.labels is not None:
        _check_labels(samples, classes, kind)
    return samples


def refuse_overlap(calibration: Samples, evaluation: Samples) -> None:
    """CalibrationError when a sample is in both sets: accuracy on data that set the ranges flatters the artifact."""
    seen = {digest: index for index, digest in enumerate(sample_digests(calibration))}
    shared = [(seen[digest], index) for index, digest in enumerate(sample_digests(evaluation)) if digest in seen]
    if shared:
        first, second = shared[0]
        raise CalibrationError(
            f"{len(shared)} evaluation samples are also calibration samples (evaluation {second} is calibration {first})",
            "remove them from one of the two sets",
        )


def sample_digests(samples: Samples) -> list[str]:
    """sha256 of each sample over all inputs, in input order."""
    names = sorted(samples.arrays)
    return [hashlib.sha256(b"".join(samples.arrays[name][index].tobytes() for name in names)).hexdigest() for index in range(samples.count)]


def set_digest(samples: Samples) -> str:
    """sha256 of a whole set: its samples in order and its labels."""
    labels = b"" if samples.labels is None else samples.labels.tobytes()
    return hashlib.sha256("".join(sample_digests(samples)).encode() + labels).hexdigest()


def _check_array(array: NDArray[Any], spec: TensorSpec, kind: str) -> None:
    name = f"{kind} input '{spec.name}'"
    if len(array) == 0:
        raise CalibrationError(f"the {kind} set is empty", "give at least one sample")
    wanted = spec.shape or ()
    fits = array.ndim == len(wanted) + 1 and all(
        isinstance(want, str) or want == have for want, have in zip(wanted, array.shape[1:], strict=True)
    )
    if not fits:
        raise CalibrationError(
            f"{name} has samples of shape {list(array.shape[1:])}, the student takes {list(wanted)}",
            f"give an array of shape [samples, {', '.join(map(str, wanted))}]",
        )
    if str(array.dtype) != spec.dtype:
        raise CalibrationError(f"{name} is {array.dtype}, the student takes {spec.dtype}", f"convert the samples to {spec.dtype}")
    if array.dtype.kind in "fiu":
        _check_values(array, spec, name)


def _check_values(array: NDArray[Any], spec: TensorSpec, name: str) -> None:
    flat = array.reshape(len(array), -1)
    bad = np.flatnonzero(~np.isfinite(flat).all(axis=1))
    if len(bad):
        raise CalibrationError(f"{name}: sample {bad[0]} holds NaN or infinity", "remove or repair the sample")
    if spec.value_range is None or not flat.size:
        return
    low, high = spec.value_range
    slack = _RANGE_SLACK * (high - low)
    outside = np.flatnonzero((flat.min(axis=1) < low - slack) | (flat.max(axis=1) > high + slack))
    if len(outside):
        sample = flat[outside[0]]
        hint = (
            "pixels 0..255 were not scaled: store them as uint8, or divide by 255 and normalize"
            if sample.max() > 16 * high
            else "preprocess the samples as the student's training did"
        )
        raise CalibrationError(
            f"{name}: sample {outside[0]} spans {sample.min():g}..{sample.max():g}, the student takes {low:g}..{high:g}", hint
        )


def _check_labels(samples: Samples, classes: int, kind: str) -> None:
    labels = samples.labels
    assert labels is not None
    if len(labels) != samples.count:
        raise CalibrationError(f"the {kind} set has {samples.count} samples and {len(labels)} labels", "give one label a sample")
    wrong = (labels < 0) | (labels >= classes) if classes else labels < 0
    bad = np.argwhere(wrong & judged_pixels(labels, classes) if labels.ndim > 1 else wrong)
    if len(bad):
        allowed = f"outside 0..{classes - 1}" if classes else "negative"
        raise CalibrationError(
            f"{kind} label {labels[tuple(bad[0])]} of sample {bad[0][0]} is {allowed}", "labels are indices into the student's classes"
        )
