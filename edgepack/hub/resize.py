"""Resize as constant matrices: whatever its mode, an axis at a time it is a matrix times that axis, plus a constant.

A backend uses its own operator where that reads the same pixels with the same weights, and multiplies by these matrices elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.hub.graph import HubError

Real = NDArray[np.float64]
# Whole output sizes are recognised within what float32 scales can spell: half an ulp of the scale (2^-24) times sizes to 2^13 is 5e-4.
_WHOLE = 1e-3


@dataclass(frozen=True)
class Sampling:
    """The attributes of a Resize that say where and how an output element reads (ONNX Resize-19; same names, ``coordinates`` shortened)."""

    mode: str = "nearest"
    coordinates: str = "half_pixel"
    nearest_mode: str = "round_prefer_floor"
    cubic_coeff_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation_value: float = 0.0

    @staticmethod
    def of(attributes: Mapping[str, Any]) -> Sampling:
        """From a node's attributes, absent ones at ONNX's defaults."""
        return Sampling(
            str(attributes.get("mode", "nearest")),
            str(attributes.get("coordinate_transformation_mode", "half_pixel")),
            str(attributes.get("nearest_mode", "round_prefer_floor")),
            float(attributes.get("cubic_coeff_a", -0.75)),
            bool(attributes.get("exclude_outside", 0)),
            bool(attributes.get("antialias", 0)),
            float(attributes.get("extrapolation_value", 0.0)),
        )


@dataclass(frozen=True)
class AxisResize:
    """What a Resize does along one axis: ``y[i] = sum_j matrix[i, j] * x[j] + offset[i]``.

    Attributes:
        axis: of the input, not negative.
        matrix: (out, in) float64; rows of weights that sum to 1, or to 0 where the value is extrapolated.
        offset: (out,) float64; the extrapolation value in such rows, 0 elsewhere.
    """

    axis: int
    matrix: Real
    offset: Real

    @property
    def copies(self) -> NDArray[np.int64] | None:
        """(out,) the input index each output element copies, None when some element is not a copy."""
        largest = np.argmax(self.matrix, axis=1)
        is_copy = np.array_equal(self.matrix, np.eye(self.matrix.shape[1])[largest])
        return largest.astype(np.int64) if is_copy and not self.offset.any() else None

    @property
    def changes_nothing(self) -> bool:
        """Whether the output along this axis is the input."""
        return not self.offset.any() and np.array_equal(self.matrix, np.eye(len(self.matrix)))


def resize_as_matmul(
    attributes: Mapping[str, Any],
    shape: Sequence[int],
    out_shape: Sequence[int],
    roi: NDArray[Any] | None = None,
    scales: NDArray[Any] | None = None,
    sizes: NDArray[Any] | None = None,
) -> tuple[AxisResize, ...]:
    """A Resize node as one product per axis that it changes, to be applied one after the other, in any order.

    Args:
        attributes: the node's, as Python data.
        shape, out_shape: static shapes of its input and output.
        roi, scales, sizes: its constant inputs 1 to 3; None or empty when not given.

    Raises:
        HubError: a form whose meaning the specification leaves open, or that is invalid.
    """
    sampling, rank = Sampling.of(attributes), len(shape)
    axes = [int(axis) % rank for axis in attributes.get("axes") or range(rank)]
    factors = _factors(attributes, shape, out_shape, axes, scales, sizes)
    regions = _regions(sampling, axes, roi, scales)
    each = (AxisResize(axis, *axis_matrix(sampling, shape[axis], out_shape[axis], factors[axis], regions[axis])) for axis in axes)
    return tuple(held for held in each if not held.changes_nothing)


def axis_matrix(sampling: Sampling, size: int, out: int, scale: float, roi: tuple[float, float] = (0.0, 1.0)) -> tuple[Real, Real]:
    """The matrix (out, size) and the offset (out,) of one axis, float64.

    Args:
        scale: the factor as given, or out / size; out may be the whole part of scale * size.
        roi: start and end of the axis, for tf_crop_and_resize.

    Source: ONNX Resize-19 and its reference implementation, which takes ``length_resized`` as scale * size, fraction included
    (onnxruntime takes the whole part in align_corners). Every mode is a kernel placed at the coordinate an output element reads:
    weight of pixel j = kernel((j - x) * stretch), normalised; what falls outside goes to the edge, or away with ``exclude_outside``.
    """
    _refuse(sampling)
    coordinates = _coordinates(sampling, size, out, scale, roi)
    if sampling.mode == "nearest":
        matrix = _nearest(sampling, coordinates, size)
    else:
        matrix = _weighted(sampling, coordinates, size, min(scale, 1.0) if sampling.antialias else 1.0)
    outside = (coordinates < 0) | (coordinates > size - 1) if sampling.coordinates == "tf_crop_and_resize" else np.zeros(out, bool)
    return np.where(outside[:, None], 0.0, matrix), np.where(outside, sampling.extrapolation_value, 0.0)


def _refuse(sampling: Sampling) -> None:
    if sampling.mode not in ("nearest", *_KERNELS):
        raise HubError(f"Resize has mode '{sampling.mode}'", "use nearest, linear or cubic")
    if sampling.coordinates not in _COORDINATES:
        raise HubError(f"Resize has coordinate mode '{sampling.coordinates}'", "use half_pixel")
    if sampling.mode == "nearest" and sampling.antialias:
        raise HubError("Resize is nearest with antialias", "use linear or cubic, or leave antialias out")


# (i, scale, size, out, width = scale * size, roi) -> where output element i reads. Resize-19, coordinate_transformation_mode.
_Coordinates = Callable[[Real, float, int, int, float, tuple[float, float]], Real]


def _crop(i: Real, scale: float, size: int, out: int, width: float, roi: tuple[float, float]) -> Real:
    start, end = roi[0] * (size - 1), roi[1] * (size - 1)
    return start + (i * (end - start) / (width - 1) if width != 1 else (end - start) / 2 + 0 * i)


_COORDINATES: dict[str, _Coordinates] = {
    "half_pixel": lambda i, scale, size, out, width, roi: (i + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda i, scale, size, out, width, roi: (i + 0.5) / scale - 0.5 if width != 1 else 0 * i - 0.5,
    "half_pixel_symmetric": lambda i, scale, size, out, width, roi: size / 2 * (1 - out / width) + (i + 0.5) / scale - 0.5,
    "asymmetric": lambda i, scale, size, out, width, roi: i / scale,
    "align_corners": lambda i, scale, size, out, width, roi: i * (size - 1) / (width - 1) if width != 1 else 0 * i,
    "tf_crop_and_resize": _crop,
}


def _coordinates(sampling: Sampling, size: int, out: int, scale: float, roi: tuple[float, float]) -> Real:
    """(out,) in input pixels. A scale that float32 could not spell for a whole size stands for the exact one."""
    exact = out / size
    scale = exact if abs(scale * size - out) < _WHOLE else scale
    width = float(out) if scale == exact else scale * size
    return _COORDINATES[sampling.coordinates](np.arange(out, dtype=np.float64), scale, size, out, width, roi)


_ROUNDINGS: dict[str, Callable[[Real], Real]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _nearest(sampling: Sampling, coordinates: Real, size: int) -> Real:
    """One-hot rows. Coordinates are rounded to float32 first: a half, or a whole number, is one only there."""
    rounded = _ROUNDINGS[sampling.nearest_mode](coordinates.astype(np.float32).astype(np.float64))
    if sampling.exclude_outside and ((rounded < 0) | (rounded >= size)).any():
        raise HubError("Resize is nearest with exclude_outside and reads outside", "leave exclude_outside out")
    one_hot: Real = np.eye(size)[np.clip(rounded, 0, size - 1).astype(np.int64)]
    return one_hot


def _tent(distance: Real, a: float) -> Real:
    return np.asarray(np.maximum(1 - np.abs(distance), 0.0), np.float64)


def _keys(distance: Real, a: float) -> Real:
    """Cubic convolution, R. Keys 1981, equation (4)."""
    d = np.abs(distance)
    near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


# mode -> kernel and its radius in (stretched) pixels.
_KERNELS: dict[str, tuple[Callable[[Real, float], Real], int]] = {"linear": (_tent, 1), "cubic": (_keys, 2)}


def _weighted(sampling: Sampling, coordinates: Real, size: int, stretch: float) -> Real:
    """Rows of kernel weights; pixels beyond the edges count as the edge pixel, or not at all."""
    kernel, radius = _KERNELS[sampling.mode]
    reach = int(np.ceil(radius / stretch)) + 1
    pixels = np.floor(coordinates).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    weights = kernel((pixels - coordinates[:, None]) * stretch, sampling.cubic_coeff_a)
    if sampling.exclude_outside:
        weights = np.where((pixels < 0) | (pixels >= size), 0.0, weights)
    weights = weights / weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((len(coordinates), size))
    np.add.at(matrix, (np.arange(len(coordinates))[:, None], np.clip(pixels, 0, size - 1)), weights)
    return matrix


def _factors(
    attributes: Mapping[str, Any],
    shape: Sequence[int],
    out_shape: Sequence[int],
    axes: Sequence[int],
    scales: NDArray[Any] | None,
    sizes: NDArray[Any] | None,
) -> dict[int, float]:
    """Axis -> scale: as given, common to all axes under a keep_aspect_ratio_policy, or the quotient of the sizes."""
    if scales is not None and scales.size:
        return {axis: float(scale) for axis, scale in zip(axes, scales.ravel(), strict=True)}
    policy = attributes.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch" or sizes is None or not sizes.size:
        return {axis: out_shape[axis] / shape[axis] for axis in axes}
    asked = [int(size) / shape[axis] for axis, size in zip(axes, sizes.ravel(), strict=True)]
    return dict.fromkeys(axes, min(asked) if policy == "not_larger" else max(asked))


def _regions(
    sampling: Sampling, axes: Sequence[int], roi: NDArray[Any] | None, scales: NDArray[Any] | None
) -> dict[int, tuple[float, float]]:
    """Axis -> (start, end) in parts of the axis; whole unless the image is cropped."""
    whole = dict.fromkeys(axes, (0.0, 1.0))
    if sampling.coordinates != "tf_crop_and_resize":
        return whole
    if roi is None or roi.size != 2 * len(axes):
        raise HubError("Resize crops (tf_crop_and_resize) without one constant region for each axis", "give roi as constant numbers")
    starts, ends = roi.astype(np.float64).reshape(2, -1)
    regions = {axis: (float(start), float(end)) for axis, start, end in zip(axes, starts, ends, strict=True)}
    if scales is not None and scales.size and regions != whole:
        raise HubError("Resize crops with scales, whose output size ONNX leaves open", "give sizes instead of scales")
    return regions
