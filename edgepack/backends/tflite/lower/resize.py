"""Resize: nearest and linear, judged by the positions they read rather than by the names of modes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.tflite.emit import Emitter
from edgepack.backends.tflite.layout import Layout
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import Refusal, attribute_is, constant_inputs, equal_encodings, lowers, ranks
from edgepack.quantize.fold import Operation

Positions = NDArray[np.float64]
Flags = dict[str, bool]

_FLAGS: tuple[Flags, ...] = (
    {"alignCorners": False, "halfPixelCenters": True},
    {"alignCorners": False, "halfPixelCenters": False},
    {"alignCorners": True, "halfPixelCenters": False},
)

# Two coordinate formulas agree when they differ by less than float32 can tell at a thousand pixels.
_COORDINATE_TOLERANCE = 1e-4

_ONNX: dict[str, Callable[[Positions, float, int, int], Positions]] = {
    "half_pixel": lambda x, scale, size, out: (x + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda x, scale, size, out: (x + 0.5) / scale - 0.5 if out > 1 else x * 0,
    "half_pixel_symmetric": lambda x, scale, size, out: size / 2 * (1 - out / (scale * size)) + (x + 0.5) / scale - 0.5,
    "asymmetric": lambda x, scale, size, out: x / scale,
    "align_corners": lambda x, scale, size, out: x * (size - 1) / (out - 1) if out > 1 else x * 0,
}

_ROUNDINGS: dict[str, Callable[[Positions], Positions]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def onnx_positions(operation: Operation, axis: int) -> Positions:
    """ONNX Resize-19: the input coordinate each output element of ``axis`` reads, before rounding, cut to the image."""
    source = operation.inputs[0]
    assert source is not None
    size, out = source.shape[axis], operation.outputs[0].shape[axis]
    mode = str(operation.attributes.get("coordinate_transformation_mode", "half_pixel"))
    positions = _ONNX[mode](np.arange(out, dtype=np.float64), _scale(operation, axis), size, out)
    return positions if operation.attributes.get("mode", "nearest") == "nearest" else np.clip(positions, 0, size - 1)


def _scale(operation: Operation, axis: int) -> float:
    """The factor given, or the quotient of the sizes."""
    source = operation.inputs[0]
    assert source is not None
    given = operation.inputs[2] if len(operation.inputs) > 2 else None
    exact = operation.outputs[0].shape[axis] / source.shape[axis]
    if given is None or given.constant is None or given.constant.size == 0:
        return exact
    axes = [int(held) % source.rank for held in operation.attributes.get("axes") or range(source.rank)]
    return float(given.constant.ravel()[axes.index(axis)]) if axis in axes else 1.0


def nearest_indices(operation: Operation, axis: int) -> NDArray[np.int64]:
    """The input index each output element of ``axis`` copies."""
    source = operation.inputs[0]
    assert source is not None
    rounding = _ROUNDINGS[str(operation.attributes.get("nearest_mode", "round_prefer_floor"))]
    # float32, as the reference implementation computes: a half is a half only there.
    rounded = rounding(onnx_positions(operation, axis).astype(np.float32).astype(np.float64))
    indices: NDArray[np.int64] = np.clip(rounded, 0, source.shape[axis] - 1).astype(np.int64)
    return indices


def _tflite_positions(flags: Flags, size: int, out: int) -> Positions:
    """Where RESIZE_BILINEAR reads (reference_ops.h, ComputeInterpolationValues)."""
    x = np.arange(out, dtype=np.float64)
    if flags["alignCorners"] and out > 1:
        return x * ((size - 1) / (out - 1))
    scaled = (x + 0.5) * (size / out) - 0.5 if flags["halfPixelCenters"] else x * (size / out)
    return np.clip(scaled, 0, size - 1)


def _tflite_indices(flags: Flags, size: int, out: int) -> NDArray[np.int64]:
    """What RESIZE_NEAREST_NEIGHBOR copies (reference_ops.h, GetNearestNeighbor), in float32 as there."""
    aligned = flags["alignCorners"] and out > 1
    scale = np.float32(size - 1) / np.float32(out - 1) if aligned else np.float32(size) / np.float32(out)
    offset = np.float32(0.5 if flags["halfPixelCenters"] else 0)
    scaled = (np.arange(out, dtype=np.float32) + offset) * scale
    rounded = np.floor(scaled + np.float32(0.5)) if flags["alignCorners"] else np.floor(scaled)
    indices: NDArray[np.int64] = np.clip(rounded, 0, size - 1).astype(np.int64)
    return indices


def _matching(operation: Operation) -> Flags | None:
    """The flags under which the kernel reads what the hub does, None when there are none."""
    return next((flags for flags in _FLAGS if all(_agrees(operation, flags, axis) for axis in (2, 3))), None)


def _agrees(operation: Operation, flags: Flags, axis: int) -> bool:
    source = operation.inputs[0]
    assert source is not None
    size, out = source.shape[axis], operation.outputs[0].shape[axis]
    if operation.attributes.get("mode", "nearest") == "nearest":
        return np.array_equal(nearest_indices(operation, axis), _tflite_indices(flags, size, out))
    difference = onnx_positions(operation, axis) - _tflite_positions(flags, size, out)
    return bool(np.abs(difference).max() < _COORDINATE_TOLERANCE)


def _only_space(operation: Operation) -> Refusal:
    source, result = operation.inputs[0], operation.outputs[0]
    assert source is not None
    return None if source.shape[:2] == result.shape[:2] else ("batch or channels are resized", "resize height and width only")


def _linear_matches(operation: Operation) -> Refusal:
    if operation.attributes.get("mode", "nearest") == "nearest" or _matching(operation) is not None:
        return None
    mode = operation.attributes.get("coordinate_transformation_mode", "half_pixel")
    return (
        f"linear with {mode} at this size reads where no TFLite kernel does",
        "use half_pixel, asymmetric or align_corners with exact sizes",
    )


def _corners_are_whole(operation: Operation) -> Refusal:
    """Where a given scale leaves a fraction of a pixel, the specification aligns that fraction and onnxruntime the cut size."""
    source = operation.inputs[0]
    assert source is not None
    if operation.attributes.get("coordinate_transformation_mode") != "align_corners":
        return None
    lengths = [(axis, _scale(operation, axis) * size, operation.outputs[0].shape[axis]) for axis, size in enumerate(source.shape)]
    odd = next((axis for axis, length, out in lengths if abs(length - out) > _COORDINATE_TOLERANCE * out), None)
    return None if odd is None else (f"align_corners with a scale that gives axis {odd} no whole size", "give sizes instead of scales")


def _scale_is_fixed(operation: Operation) -> Refusal:
    mode = operation.attributes.get("coordinate_transformation_mode", "half_pixel")
    return None if mode in _ONNX else (f"coordinate mode {mode} has no TFLite form", "use half_pixel")


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
    objects=(
        ranks(4),
        constant_inputs(1, 2, 3),
        attribute_is("mode", "nearest", "linear"),
        attribute_is("antialias", 0),
        _scale_is_fixed,
        _only_space,
        _corners_are_whole,
        _linear_matches,
    ),
    integer=(equal_encodings,),
)
def resize(operation: Operation, emit: Emitter) -> View:
    """ONNX Resize-19 -> RESIZE_BILINEAR or RESIZE_NEAREST_NEIGHBOR, or two GATHERs where nearest reads as no kernel does.

    ``cubic_coeff_a``, ``exclude_outside`` and ``extrapolation_value`` act in modes that are refused; the output's static shape already
    says what ``keep_aspect_ratio_policy`` decides.
    """
    x = emit.image(emit.take(operation.inputs[0]))
    flags = _matching(operation)
    if flags is None:
        return _gathered(operation, emit, x)
    linear = operation.attributes.get("mode", "nearest") == "linear"
    name, table = ("RESIZE_BILINEAR", "ResizeBilinearOptions") if linear else ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions")
    output = emit.output(operation.outputs[0], x.layout.of(operation.outputs[0].shape))
    fields: dict[str, Any] = dict(flags)
    return emit.run(name, [x, emit.indices("size", output.stored[1:3])], output, Options(table, fields))


def _gathered(operation: Operation, emit: Emitter, x: View) -> View:
    for axis in (2, 3):
        indices = nearest_indices(operation, axis)
        shape = tuple(math.prod(indices.shape) if held == axis else size for held, size in enumerate(x.shape))
        layout: Layout = x.layout.of(shape)
        options = Options("GatherOptions", {"axis": layout.position(axis), "batchDims": 0})
        x = emit.run("GATHER", [x, emit.constant("indices", indices)], emit.like(x, layout, "gathered"), options)
    return x
