"""Reductions and ArgMax: the axes are renamed to where they lie, nothing is moved."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepack.backends.tflite.emit import Emitter
from edgepack.backends.tflite.layout import Shape
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import Refusal, attribute_is, constant_inputs, equal_encodings, lowers
from edgepack.quantize.fold import Operation


def reduced(name: str, operation: Operation, emit: Emitter, x: View, axes: Shape, keeps: bool) -> View:
    """``x`` reduced over the hub's ``axes`` (non-negative)."""
    if x.layout.merged:
        x = emit.plain(x)
    kept = x.layout.of(tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)))
    output = emit.output(operation.outputs[0], kept if keeps else x.layout.without(axes), operation.activation)
    stored_axes = sorted(x.layout.position(axis) for axis in axes)
    return emit.run(name, [x, emit.indices("axes", stored_axes)], output, Options("ReducerOptions", {"keepDims": keeps}))


def _axes(operation: Operation) -> Shape:
    """The axes of an ONNX reduction, non-negative: input since opset 18 (13 for ReduceSum), attribute before, all when absent."""
    source = operation.inputs[0]
    assert source is not None
    operand = operation.inputs[1] if len(operation.inputs) > 1 else None
    held: Any = operation.attributes.get("axes") if operand is None else operand.constant
    if held is None or np.size(held) == 0:
        return () if operation.attributes.get("noop_with_empty_axes") else tuple(range(source.rank))
    return tuple(sorted(int(axis) % source.rank for axis in np.ravel(held)))


def _lower(name: str, operation: Operation, emit: Emitter) -> View:
    x, axes = emit.take(operation.inputs[0]), _axes(operation)
    return x if not axes else reduced(name, operation, emit, x, axes, bool(operation.attributes.get("keepdims", 1)))


def _is_float(operation: Operation) -> Refusal:
    source = operation.inputs[0]
    assert source is not None
    return None if source.dtype == "float32" else (f"{operation.op_type} of {source.dtype} has no kernel", "cast to float32 first")


_HONOURS = {"axes", "keepdims", "noop_with_empty_axes"}


@lowers("ReduceMean", honours=_HONOURS, objects=(constant_inputs(1), _is_float), integer=())
def reduce_mean(operation: Operation, emit: Emitter) -> View:
    """ONNX ReduceMean-18 -> MEAN."""
    return _lower("MEAN", operation, emit)


@lowers("ReduceSum", honours=_HONOURS, objects=(constant_inputs(1),))
def reduce_sum(operation: Operation, emit: Emitter) -> View:
    """ONNX ReduceSum-13 -> SUM."""
    return _lower("SUM", operation, emit)


@lowers("ReduceMax", honours=_HONOURS, objects=(constant_inputs(1),), integer=(equal_encodings,))
def reduce_max(operation: Operation, emit: Emitter) -> View:
    """ONNX ReduceMax-20 -> REDUCE_MAX, of bool REDUCE_ANY."""
    return _lower("REDUCE_ANY" if operation.outputs[0].dtype == "bool" else "REDUCE_MAX", operation, emit)


@lowers("ReduceMin", honours=_HONOURS, objects=(constant_inputs(1),), integer=(equal_encodings,))
def reduce_min(operation: Operation, emit: Emitter) -> View:
    """ONNX ReduceMin-20 -> REDUCE_MIN, of bool REDUCE_ALL."""
    return _lower("REDUCE_ALL" if operation.outputs[0].dtype == "bool" else "REDUCE_MIN", operation, emit)


@lowers("ReduceProd", honours=_HONOURS, objects=(constant_inputs(1),))
def reduce_prod(operation: Operation, emit: Emitter) -> View:
    """ONNX ReduceProd-18 -> REDUCE_PROD."""
    return _lower("REDUCE_PROD", operation, emit)


@lowers("ReduceL2", honours=_HONOURS, objects=(constant_inputs(1), _is_float))
def reduce_l2(operation: Operation, emit: Emitter) -> View:
    """ONNX ReduceL2-18 = sqrt(sum(x^2)) -> SQUARE, SUM, SQRT."""
    squared = emit.unary("SQUARE", emit.take(operation.inputs[0]))
    axes = _axes(operation)
    if not axes:
        return emit.unary("SQRT", squared)
    return emit.unary("SQRT", reduced("SUM", operation, emit, squared, axes, bool(operation.attributes.get("keepdims", 1))))


def _not_bool(operation: Operation) -> Refusal:
    source = operation.inputs[0]
    assert source is not None
    return None if source.dtype != "bool" else (f"{operation.op_type} of bool has no kernel", "cast to int32 first")


_EXTREMES = {"ArgMax": ("ARG_MAX", "ArgMaxOptions"), "ArgMin": ("ARG_MIN", "ArgMinOptions")}


@lowers(*_EXTREMES, honours={"axis", "keepdims", "select_last_index"}, objects=(attribute_is("select_last_index", 0), _not_bool))
def arg_max(operation: Operation, emit: Emitter) -> View:
    """ONNX ArgMax-13, ArgMin-13 -> ARG_MAX, ARG_MIN, which drop the axis, and a RESHAPE where the hub keeps it."""
    kernel, table = _EXTREMES[operation.op_type]
    x, result = emit.take(operation.inputs[0]), operation.outputs[0]
    x = emit.plain(x) if x.layout.merged else x
    axis = int(operation.attributes.get("axis", 0)) % len(x.shape)
    output = emit.output(result, x.layout.without((axis,)))
    fields = {"outputType": output.tensor.dtype}
    found = emit.run(kernel, [x, emit.indices("axis", x.layout.position(axis))], output, Options(table, fields))
    return emit.reshaped(found, result.shape)
