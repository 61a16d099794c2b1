"""Resizing of the last two dimensions (coremltools iOS15, iOS16 and iOS17 image_resizing.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements

_FACTORS = ("scale_factor_height", "scale_factor_width")


@implements("upsample_nearest_neighbor", accepts=("x", *_FACTORS), selects=True)
def upsample_nearest_neighbor(operation: MilOperation) -> Kernel:
    """Nearest elements at sizes ``floor(in * factor)``; which they are follows from the sizes, not from the factor."""
    factors = [operation.number(name, 1) for name in _FACTORS]
    return operation.bind(("x",), lambda x: _nearest(x, _scaled(x.shape[-2:], factors)))


@implements("resize_nearest_neighbor", accepts=("x", "target_size_height", "target_size_width"), selects=True)
def resize_nearest_neighbor(operation: MilOperation) -> Kernel:
    """Output element ``i`` copies input element ``floor(i * in / out)``."""
    target = _target(operation)
    return operation.bind(("x",), lambda x: _nearest(x, target))


@implements("resize", accepts=("x", "shape", "resized_dims", "interpolation_mode", "sampling_mode"))
def resize(operation: MilOperation) -> Kernel:
    """The last two dimensions to the last two sizes of ``shape``, where 0 keeps a size.

    LINEAR is resize_bilinear. NEAREST_NEIGHBOR takes the element next to each grid point, not the one before it as
    resize_nearest_neighbor does; Apple shows it for one sampling mode, and never a point halfway between two elements: refused.
    """
    if operation.integers("resized_dims", ()) != (2,):
        raise operation.refusal("resizes other than two dimensions")
    interpolation, mode = operation.text("interpolation_mode", "LINEAR"), operation.text("sampling_mode", "DEFAULT")
    if mode not in _SPACING or (interpolation != "LINEAR" and (interpolation, mode) != ("NEAREST_NEIGHBOR", "DEFAULT")):
        raise operation.refusal(f"has interpolation_mode {interpolation} and sampling_mode {mode}")

    def kernel(x: Array, shape: Array) -> Array:
        target = [int(size) or held for size, held in zip(shape[-2:], x.shape[-2:], strict=True)]
        if interpolation == "LINEAR":
            return _sampled(x, mode, target)
        rows, columns = (_next_to(operation, grid_points(mode, size, out)) for size, out in zip(x.shape[-2:], target, strict=True))
        return np.asarray(x.take(rows, axis=-2).take(columns, axis=-1))

    return operation.bind(("x", "shape"), kernel)


def _next_to(operation: MilOperation, points: Array) -> Array:
    """The elements nearest to grid points."""
    if (points % 1 == 0.5).any():
        raise operation.refusal("takes a point halfway between two elements, which Core ML documents no rounding for")
    return np.rint(points).astype(np.int64)


@implements("resize_bilinear", accepts=("x", "target_size_height", "target_size_width", "sampling_mode"))
def resize_bilinear(operation: MilOperation) -> Kernel:
    """Linear interpolation along each of the two dimensions at the grid points of ``sampling_mode``."""
    mode = operation.text("sampling_mode", "DEFAULT")
    if mode not in _SPACING:
        raise operation.refusal(f"has sampling_mode {mode}")
    target = _target(operation)
    return operation.bind(("x",), lambda x: _sampled(x, mode, target))


@implements("upsample_bilinear", accepts=("x", *_FACTORS, "align_corners", "half_pixel_centers"))
def upsample_bilinear(operation: MilOperation) -> Kernel:
    """Linear interpolation at sizes ``floor(in * factor)``; the spacing follows from the sizes, not from the factor."""
    aligns = bool(operation.integers("align_corners", (1,))[0])
    centres = bool(operation.integers("half_pixel_centers", (not aligns,))[0])
    if aligns and centres:
        raise operation.refusal("has align_corners and half_pixel_centers")
    mode = "STRICT_ALIGN_CORNERS" if aligns else "UNALIGN_CORNERS" if centres else "DEFAULT"
    factors = [operation.number(name, 1) for name in _FACTORS]

    return operation.bind(("x",), lambda x: _sampled(x, mode, _scaled(x.shape[-2:], factors)))


def _target(operation: MilOperation) -> list[int]:
    return [operation.integers(name, (1,))[0] for name in ("target_size_height", "target_size_width")]


def _scaled(sizes: Sequence[int], factors: Sequence[np.float32]) -> list[int]:
    return [math.floor(size * factor) for size, factor in zip(sizes, factors, strict=True)]


def _nearest(x: Array, target: Sequence[int]) -> Array:
    rows, columns = (np.arange(out) * size // out for size, out in zip(x.shape[-2:], target, strict=True))
    return np.asarray(x.take(rows, axis=-2).take(columns, axis=-1))


# First grid point and spacing for sizes (in, out), as the docstring of resize_bilinear gives them.
_SPACING: dict[str, Callable[[int, int], tuple[float, float]]] = {
    "STRICT_ALIGN_CORNERS": lambda size, out: (0.0, (size - 1) / max(out - 1, 1)),
    "ALIGN_CORNERS": lambda size, out: (0.0, (size - 1) / (out - 1)) if out > 1 else ((size - 1) / 2, 0.0),
    "DEFAULT": lambda size, out: (0.0, size / out),
    "OFFSET_CORNERS": lambda size, out: (0.5 * max(1, size - 1) / out, max(1, size - 1) / out),
    "UNALIGN_CORNERS": lambda size, out: (0.5 * size / out - 0.5, size / out),
}


def grid_points(mode: str, size: int, out: int) -> Array:
    """Where the ``out`` samples of an axis of ``size`` elements are taken, within [0, size - 1]."""
    first, spacing = _SPACING[mode](size, out)
    return np.asarray(np.clip(first + np.arange(out) * spacing, 0, size - 1))


def _sampled(x: Array, mode: str, target: list[int]) -> Array:
    height, width = target
    rows = _interpolated(x, -2, grid_points(mode, x.shape[-2], height))
    return _interpolated(rows, -1, grid_points(mode, x.shape[-1], width))


def _interpolated(x: Array, axis: int, points: Array) -> Array:
    low = np.floor(points).astype(np.int64)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    weight = (points - low).astype(np.float32)
    weight = weight[:, None] if axis == -2 else weight
    return np.asarray(x.take(low, axis=axis) * (1 - weight) + x.take(high, axis=axis) * weight)
