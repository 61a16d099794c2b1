"""Resizing of the last two dimensions (coremltools iOS15/image_resizing.py)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements


@implements("upsample_nearest_neighbor", accepts=("x", "scale_factor_height", "scale_factor_width"))
def upsample_nearest_neighbor(operation: MilOperation) -> Kernel:
    """Every element repeated; only whole factors are exact, others are refused."""
    height, width = operation.number("scale_factor_height", 1), operation.number("scale_factor_width", 1)
    if height != int(height) or width != int(width):
        raise operation.refusal(f"has the fractional factors {height}, {width}")
    return operation.bind(("x",), lambda x: x.repeat(int(height), axis=-2).repeat(int(width), axis=-1))


@implements("resize_bilinear", accepts=("x", "target_size_height", "target_size_width", "sampling_mode"))
def resize_bilinear(operation: MilOperation) -> Kernel:
    """Linear interpolation along each of the two dimensions at the grid points of ``sampling_mode``."""
    mode = operation.text("sampling_mode", "DEFAULT")
    height, width = operation.outputs[0].shape[-2:]
    if mode not in _SPACING:
        raise operation.refusal(f"has sampling_mode {mode}")

    def kernel(x: Array) -> Array:
        rows = _interpolated(x, -2, grid_points(mode, x.shape[-2], height))
        return _interpolated(rows, -1, grid_points(mode, x.shape[-1], width))

    return operation.bind(("x",), kernel)


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


def _interpolated(x: Array, axis: int, points: Array) -> Array:
    low = np.floor(points).astype(np.int64)
    high = np.minimum(low + 1, x.shape[axis] - 1)
    weight = (points - low).astype(np.float32)
    weight = weight[:, None] if axis == -2 else weight
    return np.asarray(x.take(low, axis=axis) * (1 - weight) + x.take(high, axis=axis) * weight)
