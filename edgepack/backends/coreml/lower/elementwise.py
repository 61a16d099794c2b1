"""Arithmetic and functions of one value. Both sides broadcast as numpy does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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


for _onnx, _mil in {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Max": "maximum",
    "Min": "minimum",
    "Sum": "add",
    "And": "logical_and",
    "Or": "logical_or",
    "Xor": "logical_xor",
}.items():
    lowers(_onnx, reals=False)(_folded(_mil))


@lowers("Not", reals=False)
def logical_not(operation: Operation, emit: Emitter) -> Var:
    """ONNX Not-1."""
    return emit("logical_not", x=emit.value(required(operation, 0)))


@lowers("Div", reals=False)
def divide(operation: Operation, emit: Emitter) -> Var:
    """ONNX Div-14: integers truncate toward zero, as the quotient of the magnitudes with the sign of both does however it is rounded."""
    x, y = (emit.value(required(operation, position)) for position in (0, 1))
    if required(operation, 0).dtype.startswith("float"):
        return emit("real_div", x=x, y=y)
    quotient = emit("floor_div", x=emit("abs", x=x), y=emit("abs", x=y))
    return emit("mul", x=quotient, y=emit("mul", x=emit("sign", x=x), y=emit("sign", x=y)))


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


@lowers("Equal", reals=False)
def equal(operation: Operation, emit: Emitter) -> Var:
    """ONNX Equal-19; MIL compares numbers only, so booleans go as integers."""
    x, y = (emit.as_integer(emit.value(required(operation, position))) for position in (0, 1))
    return emit("equal", x=x, y=y)


for _onnx, _mil in {
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
}.items():
    lowers(_onnx, reals=False)(_folded(_mil))


@lowers("Where", reals=False)
def where(operation: Operation, emit: Emitter) -> Var:
    """ONNX Where-16. MIL's select has the shape of its choices whatever the condition's, so a smaller one is repeated first."""
    shape = operation.outputs[0].shape
    condition, chosen, other = (required(operation, position) for position in range(3))
    whole = np.broadcast_shapes(chosen.shape, other.shape) == shape
    a = emit.value(chosen) if whole else emit.spread(emit.value(chosen), shape)
    return emit("select", cond=emit.value(condition), a=a, b=emit.value(other))


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


# 2^31 is the first power of two beyond int32.
_INT32_BITS = 31


def _integer_power(operation: Operation) -> tuple[str, str] | None:
    """Integers are raised exactly, by products; real arithmetic would be off by one, and in fp16 far off."""
    exponent = required(operation, 1)
    if required(operation, 0).dtype.startswith("float"):
        return None
    if exponent.constant is None:
        return "raises integers to an exponent computed at run time", "cast the base to float32 in the student"
    values = exponent.real()
    if (values != np.floor(values)).any() or values.min() < 0 or values.max() > _INT32_BITS:
        return "raises integers to an exponent that is not whole, or not in 0 to 31", "cast the base to float32 in the student"
    return None


@lowers("Pow", reals=False, objects=(_integer_power,))
def power(operation: Operation, emit: Emitter) -> Var:
    """ONNX Pow-15. A square is a product: coremltools turns pow(x, 2) before or after sqrt into x, which is wrong below 0."""
    x, exponent = required(operation, 0), required(operation, 1)
    base = emit.value(x)
    if not x.dtype.startswith("float"):
        return _whole_power(base, exponent.real().astype(np.int32), operation.outputs[0].shape, emit)
    held = exponent.constant
    if held is not None and held.size == 1 and exponent.rank <= x.rank and float(held.item()) == 2:
        return emit("mul", x=base, y=base)
    return emit("pow", x=base, y=_as_real(exponent, emit))


def _whole_power(base: Var, exponents: NDArray[np.int32], shape: tuple[int, ...], emit: Emitter) -> Var:
    """Square and multiply: the product of base^(2^bit) over the bits of each exponent."""
    result = emit("const", val=np.ones(shape, np.int32))
    for bit in range(int(exponents.max()).bit_length()):
        base = base if bit == 0 else emit("mul", x=base, y=base)
        chosen = np.broadcast_to((exponents >> bit) & 1, shape)
        if chosen.any():
            result = emit("mul", x=result, y=_chosen(chosen, base, shape, emit))
    return result


def _chosen(chosen: NDArray[np.int32], base: Var, shape: tuple[int, ...], emit: Emitter) -> Var:
    """``base`` where chosen, 1 elsewhere."""
    if chosen.all():
        return base
    return emit("select", cond=np.ascontiguousarray(chosen.astype(bool)), a=emit.spread(base, shape), b=np.int32(1))


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
