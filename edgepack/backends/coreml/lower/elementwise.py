"""Arithmetic and functions of one value. Both sides broadcast as numpy does."""

from __future__ import annotations

import numpy as np

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import Lower, lowers, only, required
from edgepack.quantize.fold import Operand, Operation


def _folded(kind: str) -> Lower:
    """A binary MIL operation over two or more inputs, from the left (Max and Min take any number)."""

    def lower(operation: Operation, emit: Emitter) -> Var:
        first, *others = [emit.value(operand) for operand in operation.inputs if operand is not None]
        for other in others:
            first = emit(kind, x=first, y=other)
        return first

    return lower


def _applied(kind: str) -> Lower:
    return lambda operation, emit: emit(kind, x=emit.value(required(operation, 0)))


for _onnx, _mil in {"Add": "add", "Sub": "sub", "Mul": "mul", "Max": "maximum", "Min": "minimum"}.items():
    lowers(_onnx, reals=False)(_folded(_mil))
lowers("Div")(_folded("real_div"))

for _onnx, _mil in {
    "Abs": "abs",
    "Ceil": "ceil",
    "Cos": "cos",
    "Erf": "erf",
    "Exp": "exp",
    "Floor": "floor",
    "Round": "round",
    "Sign": "sign",
    "Sin": "sin",
    "Sqrt": "sqrt",
}.items():
    lowers(_onnx)(_applied(_mil))


for _onnx, _mil in {
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
}.items():
    lowers(_onnx, reals=False)(_folded(_mil))


def _choices_are_whole(operation: Operation) -> tuple[str, str] | None:
    """MIL's select has the shape of its choices whatever the condition's; a constant choice can be spread out, so one is enough."""
    chosen, other = required(operation, 1), required(operation, 2)
    is_whole = np.broadcast_shapes(chosen.shape, other.shape) == operation.outputs[0].shape
    if is_whole or chosen.constant is not None or other.constant is not None:
        return None
    return "its condition is larger than both computed choices", "expand one of them in the student"


@lowers("Where", reals=False, objects=(_choices_are_whole,))
def where(operation: Operation, emit: Emitter) -> Var:
    """ONNX Where-16."""
    shape = operation.outputs[0].shape
    chosen, other = required(operation, 1), required(operation, 2)
    if np.broadcast_shapes(chosen.shape, other.shape) != shape:
        chosen, other = (_spread(chosen, shape), other) if chosen.constant is not None else (chosen, _spread(other, shape))
    return emit("select", cond=emit.value(required(operation, 0)), a=emit.value(chosen), b=emit.value(other))


def _spread(operand: Operand, shape: tuple[int, ...]) -> Operand:
    """A constant repeated to a larger shape."""
    held = np.ascontiguousarray(np.broadcast_to(operand.real(), shape))
    return Operand(f"{operand.name}_{'x'.join(map(str, shape))}", shape, operand.dtype, None, held)


@lowers("Neg")
def negate(operation: Operation, emit: Emitter) -> Var:
    """ONNX Neg-13 as a product with -1."""
    return emit("mul", x=emit.value(required(operation, 0)), y=emit.number(-1))


@lowers("Reciprocal")
def reciprocal(operation: Operation, emit: Emitter) -> Var:
    """ONNX Reciprocal-13 as 1 / x: MIL's ``inverse`` adds an epsilon."""
    return emit("real_div", x=emit.number(1), y=emit.value(required(operation, 0)))


@lowers("Log")
def logarithm(operation: Operation, emit: Emitter) -> Var:
    """ONNX Log-13; MIL's epsilon would make log(0) finite."""
    return emit("log", x=emit.value(required(operation, 0)), epsilon=emit.number(0))


@lowers("Pow")
def power(operation: Operation, emit: Emitter) -> Var:
    """ONNX Pow-15. A square is a product: coremltools turns pow(x, 2) before or after sqrt into x, which is wrong below 0."""
    x, exponent = required(operation, 0), required(operation, 1)
    base = emit.value(x)
    held = exponent.constant
    if held is not None and held.size == 1 and exponent.rank <= x.rank and float(held.item()) == 2:
        return emit("mul", x=base, y=base)
    return emit("pow", x=base, y=_as_real(exponent, emit))


def _as_real(operand: Operand, emit: Emitter) -> Var:
    """A value in the compute precision, whatever its own type."""
    if operand.constant is not None:
        return emit.value(Operand(f"{operand.name}_real", operand.shape, "float32", None, operand.real().astype(np.float32)))
    value = emit.value(operand)
    return value if operand.dtype.startswith("float") else emit("cast", x=value, dtype=_MIL_REAL[emit.dtype])


_MIL_REAL = {"float32": "fp32", "float16": "fp16"}
# onnx.TensorProto.DataType; in a float16 program every real number is fp16.
_ONNX_FLOATS = (1, 10)
_MIL_OTHERS = {6: "int32", 7: "int32", 9: "bool"}


@lowers("Cast", honours={"to", "saturate"}, reals=False, objects=(only("to", *_ONNX_FLOATS, *_MIL_OTHERS),))
def cast(operation: Operation, emit: Emitter) -> Var:
    """ONNX Cast-21: reals to integers truncate in both. ``saturate`` concerns float8 only."""
    x, to = required(operation, 0), operation.attributes["to"]
    if to not in _ONNX_FLOATS:
        return emit("cast", x=emit.value(x), dtype=_MIL_OTHERS[to])
    return _as_real(x, emit)


@lowers("Identity", reals=False)
def identity(operation: Operation, emit: Emitter) -> Var:
    """ONNX Identity-21: another name for the same value."""
    return emit.value(required(operation, 0))
