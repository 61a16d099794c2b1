"""Operators that take and put elements by index."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import lowers, required
from edgepack.quantize.fold import Operand, Operation

# ONNX's reductions as MIL names them.
_MODES = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}


def from_zero(indices: Operand, sizes: int | list[int], emit: Emitter) -> Any:
    """Indices counted from zero, of axes of ``sizes``; constants where known. From iOS 17 on Core ML does not wrap negative ones."""
    bounds = np.asarray(sizes, np.int32)
    if indices.constant is not None:
        return np.where(indices.constant < 0, indices.constant + bounds, indices.constant).astype(np.int32)[()]
    given = emit.value(indices)
    return emit("select", cond=emit("less", x=given, y=np.int32(0)), a=emit("add", x=given, y=bounds[()]), b=given)


def _like(value: Var, result: Var, emit: Emitter) -> Var:
    return emit("cast", x=result, dtype="bool") if emit.is_boolean(value) else result


@lowers("GatherElements", honours={"axis"}, reals=False)
def gather_elements(operation: Operation, emit: Emitter) -> Var:
    """ONNX GatherElements-13; MIL wants every other axis as long as the index's, so what lies beyond is cut off first."""
    x, indices = required(operation, 0), required(operation, 1)
    axis, value = operation.attributes.get("axis", 0) % x.rank, emit.value(x)
    held = emit.as_integer(value)
    sizes = [size if place == axis else indices.shape[place] for place, size in enumerate(x.shape)]
    if tuple(sizes) != x.shape:
        held = emit("slice_by_size", x=held, begin=[0] * x.rank, size=sizes)
    return _like(value, emit("gather_along_axis", x=held, indices=from_zero(indices, x.shape[axis], emit), axis=axis), emit)


@lowers("GatherND", honours={"batch_dims"}, reals=False)
def gather_nd(operation: Operation, emit: Emitter) -> Var:
    """ONNX GatherND-13."""
    x, indices = required(operation, 0), required(operation, 1)
    batch, value = operation.attributes.get("batch_dims", 0), emit.value(x)
    places = from_zero(indices, list(x.shape[batch : batch + indices.shape[-1]]), emit)
    return _like(value, emit("gather_nd", x=emit.as_integer(value), indices=places, batch_dims=batch), emit)


@lowers("ScatterND", honours={"reduction"}, reals=False)
def scatter_nd(operation: Operation, emit: Emitter) -> Var:
    """ONNX ScatterND-18."""
    data, indices = required(operation, 0), required(operation, 1)
    places = from_zero(indices, list(data.shape[: indices.shape[-1]]), emit)
    return _scattered("scatter_nd", operation, places, emit)


@lowers("ScatterElements", honours={"axis", "reduction"}, reals=False)
def scatter_elements(operation: Operation, emit: Emitter) -> Var:
    """ONNX ScatterElements-18; MIL wants every other axis as long as the index's, so else it is ScatterND of whole places."""
    data, indices = required(operation, 0), required(operation, 1)
    axis = operation.attributes.get("axis", 0) % data.rank
    places = from_zero(indices, data.shape[axis], emit)
    if all(size == data.shape[place] for place, size in enumerate(indices.shape) if place != axis):
        return _scattered("scatter_along_axis", operation, places, emit, axis=axis)
    along = [*np.indices(indices.shape, np.int32)]
    along[axis] = places
    return _scattered("scatter_nd", operation, emit("stack", values=along, axis=data.rank), emit)


def _scattered(name: str, operation: Operation, places: Any, emit: Emitter, **parameters: Any) -> Var:
    data, updates = (emit.value(required(operation, position)) for position in (0, 2))
    mode = _MODES[operation.attributes.get("reduction", "none")]
    held, fresh = emit.as_integer(data), emit.as_integer(updates)
    return _like(data, emit(name, data=held, indices=places, updates=fresh, mode=mode, **parameters), emit)
