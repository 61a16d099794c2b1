"""Samples as pixels, for a model that its preprocessing is part of, and back to what the student takes."""

from __future__ import annotations

import numpy as np

from edgepack.calibration.manifest import CalibrationError
from edgepack.calibration.readers import Samples
from edgepack.student.spec import StudentDescription

# How far, in pixels, a sample may be from what whole pixels give. Three float32 operations on numbers of the size of 255 err by
# 255 * 3 * 2^-24 = 5e-5 pixels; a sample that was interpolated after normalizing is off by up to half a pixel.
_SLACK = 0.01


def pixels_of(samples: Samples, student: StudentDescription, kind: str) -> Samples:
    """The pixels that the student's preprocessing made these samples of; labels stay.

    Raises:
        CalibrationError: a sample is not made of whole pixels.
    """
    (name, values), layout = next(iter(samples.arrays.items())), student.inputs[0].layout or "NCHW"
    preprocessing = student.image_preprocessing
    pixels = preprocessing.pixels_of(values, layout)
    off = np.abs(preprocessing.values_of(pixels, layout, "float64") - values) > _SLACK * np.abs(preprocessing.affine[0]).min()
    if off.any():
        index = int(np.argwhere(off)[0][0])
        raise CalibrationError(
            f"{kind} input '{name}': sample {index} does not come from whole pixels 0 to 255, which a folded preprocessing takes",
            "give images or uint8 arrays, or leave --fold-preprocessing out",
        )
    return Samples({name: pixels}, samples.labels)


def values_of(samples: Samples, student: StudentDescription, dtype: str) -> Samples:
    """What the student takes for samples of pixels, computed in ``dtype``."""
    spec, preprocessing = student.inputs[0], student.image_preprocessing
    values = preprocessing.values_of(samples.arrays[spec.name], spec.layout or "NCHW", dtype)
    return Samples({spec.name: values}, samples.labels)
