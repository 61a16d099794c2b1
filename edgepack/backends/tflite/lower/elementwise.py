"""Operators with numpy broadcasting: arithmetic, comparison, choice. They work in whatever order their largest operand lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgepack.backends.tflite.emit import ACTIVATIONS, Emitter, arithmetic, stored_dtype
from edgepack.backends.tflite.layout import Layout
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import Refusal, equal_encodings, lowers
from edgepack.quantize.fold import Operand, Operation


def aligned(views: Sequence[View], rank: int, emit: Emitter) -> list[View]:
    """All operands with ``rank`` dimensions in one order: that of the largest activation, one already moved winning a tie."""
    expanded = [_expanded(view, rank, emit) for view in views]
    moving = [view for view in expanded if not view.is_constant] or expanded
    leader = max(moving, key=lambda view: (math.prod(view.shape), bool(view.layout.permutation)))
    return [emit.ordered(view, leader.layout.order) for view in expanded]


def _expanded(view: View, rank: int, emit: Emitter) -> View:
    if view.layout.merged:
        view = emit.plain(view)
    missing = rank - len(view.shape)
    return emit.reshaped(view, (1,) * missing + view.shape) if missing else view


def broadcast(name: str, operation: Operation, emit: Emitter, operands: Sequence[Operand | None]) -> View:
    """One kernel over broadcasting operands."""
    result = operation.outputs[0]
    views = aligned([emit.take(operand) for operand in operands], result.rank, emit)
    output = emit.output(result, views[0].layout.of(result.shape), operation.activation)
    return emit.run(name, views, output, arithmetic(name, operation.activation) or _OPTIONS.get(name))


_OPTIONS = {
    "POW": Options("PowOptions"),
    "EQUAL": Options("EqualOptions"),
    "LESS": Options("LessOptions"),
    "LESS_EQUAL": Options("LessEqualOptions"),
    "GREATER": Options("GreaterOptions"),
    "GREATER_EQUAL": Options("GreaterEqualOptions"),
    "LOGICAL_AND": Options("LogicalAndOptions"),
    "LOGICAL_OR": Options("LogicalOrOptions"),
    "SELECT_V2": Options("SelectV2Options"),
    "FLOOR_MOD": Options("FloorModOptions"),
    "NOT_EQUAL": Options("NotEqualOptions"),
}


def _not_bool(operation: Operation) -> Refusal:
    first = operation.inputs[0]
    return ("arithmetic on bool has no kernel", "cast to float32 or int32 first") if first is not None and first.dtype == "bool" else None


@lowers("Add", objects=(_not_bool,), integer=())
def add(operation: Operation, emit: Emitter) -> View:
    """ONNX Add-14 -> ADD."""
    return broadcast("ADD", operation, emit, operation.inputs)


@lowers("Sub", objects=(_not_bool,), integer=())
def sub(operation: Operation, emit: Emitter) -> View:
    """ONNX Sub-14 -> SUB."""
    return broadcast("SUB", operation, emit, operation.inputs)


@lowers("Mul", objects=(_not_bool,), integer=())
def mul(operation: Operation, emit: Emitter) -> View:
    """ONNX Mul-14 -> MUL."""
    return broadcast("MUL", operation, emit, operation.inputs)


@lowers("Div", objects=(_not_bool,))
def div(operation: Operation, emit: Emitter) -> View:
    """ONNX Div-14 -> DIV; there is no int8 kernel."""
    return broadcast("DIV", operation, emit, operation.inputs)


def _folded(name: str, operation: Operation, emit: Emitter) -> View:
    """A variadic operator as a chain of two-operand kernels; one operand alone is the result."""
    result = operation.outputs[0]
    views = aligned([emit.take(operand) for operand in operation.inputs], result.rank, emit)
    total = views[0]
    for index, view in enumerate(views[1:], 2):
        shape = np.broadcast_shapes(total.shape, view.shape)
        is_last = index == len(views)
        output = emit.output(result, total.layout.of(shape)) if is_last else emit.like(total, total.layout.of(shape), "partial")
        total = emit.run(name, [total, view], output, arithmetic(name))
    return total


@lowers("Max", objects=(_not_bool,), integer=(equal_encodings,))
def maximum(operation: Operation, emit: Emitter) -> View:
    """ONNX Max-13 -> MAXIMUM."""
    return _folded("MAXIMUM", operation, emit)


@lowers("Min", objects=(_not_bool,), integer=(equal_encodings,))
def minimum(operation: Operation, emit: Emitter) -> View:
    """ONNX Min-13 -> MINIMUM."""
    return _folded("MINIMUM", operation, emit)


@lowers("Sum", objects=(_not_bool,))
def variadic_sum(operation: Operation, emit: Emitter) -> View:
    """ONNX Sum-13 -> a chain of ADD."""
    return _folded("ADD", operation, emit)


@lowers("Mean", objects=(_not_bool,))
def variadic_mean(operation: Operation, emit: Emitter) -> View:
    """ONNX Mean-13: the sum of the operands times 1 / their number, float."""
    total = _folded("ADD", operation, emit)
    return emit.binary("MUL", total, emit.scalar(1 / len(operation.inputs), total))


def _one_type(operation: Operation) -> Refusal:
    """POW takes both operands in one type: of a whole base the exponent must be whole too, known and not negative, or be given as such."""
    base, exponent = operation.inputs[:2]
    assert base is not None and exponent is not None
    if base.dtype == "float32" or exponent.dtype != "float32":
        return None
    held = exponent.constant
    if held is not None and np.array_equal(held, np.floor(held)) and (held >= 0).all():
        return None
    return f"{base.dtype} to the power of float32 has no kernel", "cast the base to float32 in the student"


def _of_type(base: Operand | None, exponent: Operand, emit: Emitter) -> Operand:
    """The exponent in the type of the base."""
    if base is None or stored_dtype(base.dtype) == stored_dtype(exponent.dtype):
        return exponent
    held = None if exponent.constant is None else exponent.constant.astype(base.dtype)
    converted = replace(exponent, name=f"{exponent.name}/{base.dtype}", dtype=base.dtype, constant=held)
    if held is None:
        x = emit.take(exponent)
        fields = {"inDataType": x.tensor.dtype, "outDataType": base.dtype}
        emit.bind(converted.name, emit.run("CAST", [x], emit.output(converted, x.layout), Options("CastOptions", fields)))
    return converted


@lowers("Pow", objects=(_one_type,))
def power(operation: Operation, emit: Emitter) -> View:
    """ONNX Pow-15 -> SQUARE or SQRT where the exponent is 2 or 0.5, which every delegate has, else POW."""
    exponent = operation.inputs[1]
    assert exponent is not None
    if exponent.constant is None or exponent.constant.size != 1 or exponent.shape not in ((), (1,)):
        return broadcast("POW", operation, emit, (operation.inputs[0], _of_type(operation.inputs[0], exponent, emit)))
    value = float(exponent.real().item())
    kernel = {2.0: "SQUARE", 0.5: "SQRT"}.get(value) if operation.outputs[0].dtype == "float32" else None
    x = emit.take(operation.inputs[0])
    if kernel is not None:
        return emit.run(kernel, [x], emit.output(operation.outputs[0], x.layout))
    held = emit.constant("exponent", np.full((1,) * len(x.stored), value, x.tensor.dtype))
    return emit.run("POW", [x, held], emit.output(operation.outputs[0], x.layout), _OPTIONS["POW"])


_COMPARISONS = {"Equal": "EQUAL", "Less": "LESS", "LessOrEqual": "LESS_EQUAL", "Greater": "GREATER", "GreaterOrEqual": "GREATER_EQUAL"}
_LOGIC = {"And": "LOGICAL_AND", "Or": "LOGICAL_OR"}


@lowers(*_COMPARISONS, *_LOGIC)
def comparison(operation: Operation, emit: Emitter) -> View:
    """ONNX Equal-19, Less-13, ..., And-7, Or-7 -> the kernel of the same meaning."""
    return broadcast({**_COMPARISONS, **_LOGIC}[operation.op_type], operation, emit, operation.inputs)


@lowers("Where")
def where(operation: Operation, emit: Emitter) -> View:
    """ONNX Where-16 -> SELECT_V2."""
    return broadcast("SELECT_V2", operation, emit, operation.inputs)


def concatenated(views: Sequence[View], axis: int, output: View, emit: Emitter) -> View:
    """CONCATENATION along the hub's ``axis`` of tensors that lie alike."""
    options = Options("ConcatenationOptions", {"axis": views[0].layout.position(axis), "fusedActivationFunction": ACTIVATIONS[""]})
    return emit.run("CONCATENATION", views, output, options)


@lowers("Concat", honours={"axis"}, integer=(equal_encodings,))
def concat(operation: Operation, emit: Emitter) -> View:
    """ONNX Concat-13 -> CONCATENATION; on codes all scales are equal, so codes are moved unchanged."""
    result = operation.outputs[0]
    views = aligned([emit.take(operand) for operand in operation.inputs if operand is not None], result.rank, emit)
    layout: Layout = views[0].layout.of(result.shape)
    return concatenated(views, int(operation.attributes["axis"]), emit.output(result, layout), emit)
