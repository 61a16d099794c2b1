"""Resizing of the last two dimensions (coremltools iOS15/image_resizing.py, iOS16/image_resizing.py)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements

_FACTORS = ("scale_factor_height", "scale_factor_width")


@implements("upsample_nearest_neighbor", accepts=("x", *_FACTORS))
def upsample_nearest_neighbor(operation: MilOperation) -> Kernel:
    """Every element repeated; only whole factors are exact, others are refused."""
    height, width = (operation.number(name, 1) for name in _FACTORS)
    if height != int(height) or width != int(width):
        raise operation.refusal(f"has the fractional factors {height}, {width}")
    return operation.bind(("x",), lambda x: x.repeat(int(height), axis=-2).repeat(int(width), axis=-1))


@implements("resize_nearest_neighbor", accepts=("x", "target_size_height", "target_size_width"))
def resize_nearest_neighbor(operation: MilOperation) -> Kernel:
    """Output element ``i`` copies input element ``floor(i * in / out)``."""
    target = _target(operation)

    def kernel(x: Array) -> Array:
        rows, columns = (np.arange(out) * size // out for size, out in zip(x.shape[-2:], target, strict=True))
        return np.asarray(x.take(rows, axis=-2).take(columns, axis=-1))

    return operation.bind(("x",), kernel)


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

    def kernel(x: Array) -> Array:
        return _sampled(x, mode, [math.floor(size * factor) for size, factor in zip(x.shape[-2:], factors, strict=True)])

    return operation.bind(("x",), kernel)


def _target(operation: MilOperation) -> list[int]:
    return [operation.integers(name, (1,))[0] for name in ("target_size_height", "target_size_width")]


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
