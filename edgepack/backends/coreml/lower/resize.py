"""Resize (ONNX Resize-19): MIL's own operators where they read the same pixels with the same weights, constant matrices elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import lowers, needs_constants, operand_at, required
from edgepack.hub.graph import HubError
from edgepack.hub.resize import AxisResize, resize_as_matmul
from edgepack.quantize.fold import Operation

_HONOURS = {
    "mode",
    "coordinate_transformation_mode",
    "nearest_mode",
    "antialias",
    "cubic_coeff_a",
    "exclude_outside",
    "extrapolation_value",
    "keep_aspect_ratio_policy",
    "axes",
}
_SPATIAL = (2, 3)
# First sample and spacing for sizes (in, out) in MIL's resize_bilinear, by sampling_mode (coremltools iOS15/image_resizing.py). The modes
# whose documentation leaves nothing open; samples are kept inside [0, size - 1].
_SAMPLING: dict[str, Callable[[int, int], tuple[float, float]]] = {
    "UNALIGN_CORNERS": lambda size, out: (0.5 * size / out - 0.5, size / out),
    "DEFAULT": lambda size, out: (0.0, size / out),
    "STRICT_ALIGN_CORNERS": lambda size, out: (0.0, (size - 1) / max(out - 1, 1)),
}
# Weights of the two forms are computed along different paths in float64; a different sampling is off by a share of a pixel.
_SAME_WEIGHTS = 1e-9


def _resizes(operation: Operation) -> tuple[AxisResize, ...]:
    roi, scales, sizes = (None if held is None else held.constant for held in (operand_at(operation, position) for position in (1, 2, 3)))
    return resize_as_matmul(operation.attributes, required(operation, 0).shape, operation.outputs[0].shape, roi, scales, sizes)


def _form(operation: Operation) -> tuple[str, str] | None:
    try:
        resizes = _resizes(operation)
    except HubError as refusal:
        return refusal.cause, refusal.hint
    if _mode(operation) == "pytorch_half_pixel" and any(len(held.matrix) == 1 and held.copies is None for held in resizes):
        return "reads a single element at 0 by the specification's text, at -0.5 by its reference implementation", "use half_pixel"
    return None


def _mode(operation: Operation) -> str:
    return str(operation.attributes.get("coordinate_transformation_mode", "half_pixel"))


@lowers("Resize", honours=_HONOURS, objects=(needs_constants(1, 2, 3), _form))
def resize(operation: Operation, emit: Emitter) -> Var:
    """ONNX Resize-19, an axis at a time unless one MIL operator does the two spatial dimensions of (N, C, H, W)."""
    x, shape = emit.value(required(operation, 0)), required(operation, 0).shape
    resizes = _resizes(operation)
    if resizes and len(shape) == 4 and {held.axis for held in resizes} <= set(_SPATIAL):
        spatial = _repeated(x, shape, resizes, emit) or _sampled(x, operation, resizes, emit)
        if spatial is not None:
            return spatial
    for held in resizes:
        x = _along(x, held, emit)
    return x


def _repeated(x: Var, shape: Sequence[int], resizes: Sequence[AxisResize], emit: Emitter) -> Var | None:
    """Every element repeated a whole number of times."""
    factors = dict.fromkeys(_SPATIAL, 1)
    for held in resizes:
        factor, copies = len(held.matrix) // shape[held.axis], held.copies
        if copies is None or not np.array_equal(copies, np.arange(shape[held.axis]).repeat(factor)):
            return None
        factors[held.axis] = factor
    height, width = (np.float32(factors[axis]) for axis in _SPATIAL)
    return emit("upsample_nearest_neighbor", x=x, scale_factor_height=height, scale_factor_width=width)


def _sampled(x: Var, operation: Operation, resizes: Sequence[AxisResize], emit: Emitter) -> Var | None:
    """resize_bilinear in the mode that reads what the matrices say."""
    sizes, outs = (tuple(held.shape[axis] for axis in _SPATIAL) for held in (required(operation, 0), operation.outputs[0]))
    wanted = {axis: np.eye(size) for axis, size in zip(_SPATIAL, sizes, strict=True)}
    wanted.update({held.axis: held.matrix for held in resizes})
    if any(held.offset.any() for held in resizes):
        return None
    for mode in _SAMPLING:
        matrices = [bilinear_matrix(mode, size, out) for size, out in zip(sizes, outs, strict=True)]
        if all(_alike(wanted[axis], matrix) for axis, matrix in zip(_SPATIAL, matrices, strict=True)):
            return emit("resize_bilinear", x=x, target_size_height=outs[0], target_size_width=outs[1], sampling_mode=mode)
    return None


def _alike(wanted: NDArray[np.float64], matrix: NDArray[np.float64]) -> bool:
    return wanted.shape == matrix.shape and bool(np.abs(wanted - matrix).max() < _SAME_WEIGHTS)


def bilinear_matrix(mode: str, size: int, out: int) -> NDArray[np.float64]:
    """What resize_bilinear does along one axis, as a matrix (out, size)."""
    first, spacing = _SAMPLING[mode](size, out)
    places = np.clip(first + np.arange(out) * spacing, 0, size - 1)
    return np.asarray(np.maximum(1 - np.abs(places[:, None] - np.arange(size)), 0.0))


def _along(x: Var, held: AxisResize, emit: Emitter) -> Var:
    """One axis: elements taken by index, or a product with a constant matrix on the side where the axis lies."""
    if held.copies is not None:
        return emit("gather", x=x, indices=held.copies.astype(np.int32), axis=held.axis)
    shape = list(x.shape)
    matrix = held.matrix.astype(emit.dtype)
    if held.axis == len(shape) - 1:
        resized = emit("matmul", x=x, y=np.ascontiguousarray(matrix.T)) if len(shape) > 1 else _vector(x, matrix, emit)
    elif held.axis == len(shape) - 2:
        resized = emit("matmul", x=matrix, y=x)
    else:
        rows = emit("reshape", x=x, shape=[prod(shape[: held.axis]), shape[held.axis], prod(shape[held.axis + 1 :])])
        resized = emit("reshape", x=emit("matmul", x=matrix, y=rows), shape=[*shape[: held.axis], len(matrix), *shape[held.axis + 1 :]])
    if not held.offset.any():
        return resized
    column = held.offset.reshape(-1, *[1] * (len(shape) - 1 - held.axis))
    return emit("add", x=resized, y=emit.reals(column, "extrapolation_value"))


def _vector(x: Var, matrix: NDArray[np.floating], emit: Emitter) -> Var:
    product = emit("matmul", x=emit("reshape", x=x, shape=[1, -1]), y=np.ascontiguousarray(matrix.T))
    return emit("reshape", x=product, shape=[len(matrix)])
