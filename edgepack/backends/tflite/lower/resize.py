"""Resize: a kernel where one reads the pixels the hub reads, with the weights the hub gives them, else a constant matrix for each axis."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.tflite.emit import ACTIVATIONS, Emitter, arithmetic, is_integer
from edgepack.backends.tflite.layout import Layout
from edgepack.backends.tflite.lower.selection import picked, repeats
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import Refusal, constant_inputs, equal_encodings, lowers
from edgepack.hub.graph import HubError
from edgepack.hub.resize import AxisResize, Real, resize_as_matmul
from edgepack.quantize.fold import Operation

Flags = dict[str, bool]

_FLAGS: tuple[Flags, ...] = (
    {"alignCorners": False, "halfPixelCenters": True},
    {"alignCorners": False, "halfPixelCenters": False},
    {"alignCorners": True, "halfPixelCenters": False},
)

# Two weights are one when they differ by less than float32 can tell of a coordinate at a thousand pixels.
_WEIGHT_TOLERANCE = 1e-4

# What the kernels resize: height and width of an image.
_IMAGE_RANK, _SPACE = 4, (2, 3)


def axes_resized(operation: Operation) -> tuple[AxisResize, ...]:
    """What the hub does along each axis it changes.

    Raises:
        HubError: a form the specification leaves open.
    """
    source = operation.inputs[0]
    assert source is not None
    roi, scales, sizes = (None if held is None else held.constant for held in (*operation.inputs[1:], None, None, None)[:3])
    return resize_as_matmul(operation.attributes, source.shape, operation.outputs[0].shape, roi, scales, sizes)


def _is_defined(operation: Operation) -> Refusal:
    try:
        axes_resized(operation)
    except HubError as error:
        return error.cause, error.hint
    return None


def _is_linear(operation: Operation) -> bool:
    return bool(operation.attributes.get("mode", "nearest") == "linear")


def matching_flags(operation: Operation) -> Flags | None:
    """The flags under which a kernel reads what the hub does, None when there are none."""
    source, changed = operation.inputs[0], axes_resized(operation)
    assert source is not None
    if source.rank != _IMAGE_RANK or any(held.axis not in _SPACE or held.offset.any() for held in changed):
        return None
    matrix = _linear_matrix if _is_linear(operation) else _nearest_matrix
    matrices = {held.axis: held.matrix for held in changed}
    wanted = [matrices.get(axis, np.eye(source.shape[axis])) for axis in _SPACE]
    return next((flags for flags in _FLAGS if all(_agree(held, matrix(flags, held.shape[1], len(held))) for held in wanted)), None)


def _agree(hub: Real, kernel: Real) -> bool:
    return bool(np.abs(hub - kernel).max() < _WEIGHT_TOLERANCE)


def _linear_matrix(flags: Flags, size: int, out: int) -> Real:
    """The weights of RESIZE_BILINEAR along an axis, (out, size) (reference_ops.h, ComputeInterpolationValues)."""
    x = np.arange(out, dtype=np.float64)
    if flags["alignCorners"] and out > 1:
        positions = x * ((size - 1) / (out - 1))
    else:
        positions = (x + 0.5) * (size / out) - 0.5 if flags["halfPixelCenters"] else x * (size / out)
    distances = np.abs(np.clip(positions, 0, size - 1)[:, None] - np.arange(size))
    weights: Real = np.maximum(1 - distances, 0)
    return weights


def _nearest_matrix(flags: Flags, size: int, out: int) -> Real:
    """What RESIZE_NEAREST_NEIGHBOR copies, (out, size) (reference_ops.h, GetNearestNeighbor), in float32 as there."""
    aligned = flags["alignCorners"] and out > 1
    scale = np.float32(size - 1) / np.float32(out - 1) if aligned else np.float32(size) / np.float32(out)
    offset = np.float32(0.5 if flags["halfPixelCenters"] else 0)
    scaled = (np.arange(out, dtype=np.float32) + offset) * scale
    rounded = np.floor(scaled + np.float32(0.5)) if flags["alignCorners"] else np.floor(scaled)
    copied: Real = np.eye(size)[np.clip(rounded, 0, size - 1).astype(np.int64)]
    return copied


def _is_product(operation: Operation) -> bool:
    """Whether numbers are mixed by no kernel of codes."""
    return matching_flags(operation) is None and any(held.copies is None for held in axes_resized(operation))


@lowers(
    "Resize",
    honours={
        "mode",
        "coordinate_transformation_mode",
        "nearest_mode",
        "antialias",
        "axes",
        "keep_aspect_ratio_policy",
        "cubic_coeff_a",
        "exclude_outside",
        "extrapolation_value",
    },
    objects=(constant_inputs(1, 2, 3), _is_defined),
    integer=(equal_encodings,),
    in_float=_is_product,
)
def resize(operation: Operation, emit: Emitter) -> View:
    """ONNX Resize-19 -> RESIZE_BILINEAR or RESIZE_NEAREST_NEIGHBOR where one reads alike; else copies or a product for each axis."""
    x = emit.take(operation.inputs[0])
    x = emit.plain(x) if x.layout.merged else x
    flags = matching_flags(operation)
    if flags is not None:
        x = emit.image(x)
    if flags is not None and not _is_better_joined(operation):
        return _kernel(operation, emit, x, flags)
    for held in sorted(axes_resized(operation), key=lambda held: (held.matrix.shape[0] / held.matrix.shape[1], -held.axis)):
        copies = held.copies
        x = picked(x, held.axis, copies, emit) if copies is not None else _shifted(_multiplied(x, held, emit), held, emit)
    return x


def _is_better_joined(operation: Operation) -> bool:
    """Whether whole repeats of codes are joined from copies, which delegates take: XNNPACK has no nearest kernel.

    Microseconds between two 1x1 convolutions, one thread: 20x20x64 by 2, 60 with the kernel in two partitions, 64 joined in one; 40x40x32
    by 2, 89 and 92; 20x20x21 by 4, 72 and 63. In float32 the copies cost more (225 and 249): there the kernel stays.
    """
    resized = axes_resized(operation)
    return is_integer(operation) and all(held.copies is not None and repeats(held.copies, held.matrix.shape[1]) for held in resized)


def _kernel(operation: Operation, emit: Emitter, x: View, flags: Flags) -> View:
    linear = _is_linear(operation)
    name, table = ("RESIZE_BILINEAR", "ResizeBilinearOptions") if linear else ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions")
    output = emit.output(operation.outputs[0], x.layout.of(operation.outputs[0].shape))
    return emit.run(name, [x, emit.indices("size", output.stored[1:3])], output, Options(table, dict(flags)))


def _multiplied(x: View, held: AxisResize, emit: Emitter) -> View:
    """The matrix times one axis, where that axis lies: FULLY_CONNECTED along the last one stored, else BATCH_MATMUL from the left."""
    position, out = x.layout.position(held.axis), len(held.matrix)
    before, after = math.prod(x.stored[:position]), math.prod(x.stored[position + 1 :])
    matrix = held.matrix.astype(np.float32)
    stored = View(x.tensor, Layout.plain(x.stored), x.non_negative)
    if after == 1:
        rows = emit.reread(stored, Layout.plain((before, matrix.shape[1])))
        product = _rows_times(rows, matrix, emit)
    else:
        columns = emit.reread(stored, Layout.plain((before, matrix.shape[1], after)))
        output = emit.like(columns, Layout.plain((before, out, after)), "resized")
        options = Options("BatchMatMulOptions", {"adjX": False, "adjY": False})
        product = emit.run("BATCH_MATMUL", [emit.constant("matrix", matrix[None]), columns], output, options)
    return emit.reread(product, x.layout.of(tuple(out if axis == held.axis else size for axis, size in enumerate(x.shape))))


def _rows_times(rows: View, matrix: NDArray[np.float32], emit: Emitter) -> View:
    output = emit.like(rows, Layout.plain((rows.stored[0], len(matrix))), "resized")
    bias = emit.constant("bias", np.zeros(len(matrix), np.float32))
    options = Options("FullyConnectedOptions", {"fusedActivationFunction": ACTIVATIONS[""], "keepNumDims": False})
    return emit.run("FULLY_CONNECTED", [rows, emit.constant("matrix", matrix), bias], output, options)


def _shifted(x: View, held: AxisResize, emit: Emitter) -> View:
    """Plus the extrapolation value where nothing is read."""
    if not held.offset.any():
        return x
    shape = [1] * len(x.stored)
    shape[x.layout.position(held.axis)] = -1
    offset = emit.constant("extrapolated", held.offset.astype(np.float32).reshape(shape))
    return emit.run("ADD", [x, offset], emit.like(x, x.layout, "extrapolated"), arithmetic("ADD"))
