"""Functions in pieces, tests of numbers, remainders and running sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgepack.backends.tflite.emit import Emitter
from edgepack.backends.tflite.lower.elementwise import broadcast
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import Refusal, constant_inputs, lowers, ranks
from edgepack.quantize.fold import Operation

_SELECT = Options("SelectV2Options")
# ONNX Selu-6.
_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


def _attribute(operation: Operation, name: str, default: float) -> float:
    return float(operation.attributes.get(name, default))


def _elu(x: View, alpha: float, emit: Emitter) -> View:
    """max(x, 0) + alpha * (e^min(x, 0) - 1)."""
    if alpha == 1:
        return emit.unary("ELU", x)
    below = emit.unary("ELU", emit.binary("MINIMUM", x, emit.scalar(0, x)))
    return emit.binary("ADD", emit.binary("MUL", below, emit.scalar(alpha, x)), emit.unary("RELU", x))


@lowers("Selu", honours={"alpha", "gamma"})
def selu(operation: Operation, emit: Emitter) -> View:
    """ONNX Selu-6 = gamma * elu(x, alpha)."""
    x = emit.take(operation.inputs[0])
    bent = _elu(x, _attribute(operation, "alpha", _SELU_ALPHA), emit)
    return emit.binary("MUL", bent, emit.scalar(_attribute(operation, "gamma", _SELU_GAMMA), x))


@lowers("Celu", honours={"alpha"})
def celu(operation: Operation, emit: Emitter) -> View:
    """ONNX Celu-12 = max(x, 0) + min(alpha * (e^(x / alpha) - 1), 0)."""
    x, alpha = emit.take(operation.inputs[0]), _attribute(operation, "alpha", 1)
    if alpha == 1:
        return emit.unary("ELU", x)
    below = emit.unary("ELU", emit.binary("MUL", emit.binary("MINIMUM", x, emit.scalar(0, x)), emit.scalar(1 / alpha, x)))
    return emit.binary("ADD", emit.binary("MUL", below, emit.scalar(alpha, x)), emit.unary("RELU", x))


def _chosen(condition: View, chosen: View, other: View, emit: Emitter) -> View:
    whole = chosen if len(chosen.stored) == len(condition.stored) and not chosen.is_constant else other
    return emit.run("SELECT_V2", [condition, chosen, other], emit.like(whole, condition.layout, "chosen"), _SELECT)


@lowers("ThresholdedRelu", honours={"alpha"})
def thresholded_relu(operation: Operation, emit: Emitter) -> View:
    """ONNX ThresholdedRelu-10: x where it is above alpha, else 0."""
    x = emit.take(operation.inputs[0])
    above = emit.truth("GREATER", x, emit.scalar(_attribute(operation, "alpha", 1), x))
    return _chosen(above, x, emit.scalar(0, x), emit)


@lowers("Shrink", honours={"bias", "lambd"})
def shrink(operation: Operation, emit: Emitter) -> View:
    """ONNX Shrink-9: x + bias below -lambd, x - bias above lambd, else 0."""
    x, bias, bound = emit.take(operation.inputs[0]), _attribute(operation, "bias", 0), _attribute(operation, "lambd", 0.5)
    above = _chosen(emit.truth("GREATER", x, emit.scalar(bound, x)), emit.binary("SUB", x, emit.scalar(bias, x)), emit.scalar(0, x), emit)
    return _chosen(emit.truth("LESS", x, emit.scalar(-bound, x)), emit.binary("ADD", x, emit.scalar(bias, x)), above, emit)


@lowers("Softsign")
def softsign(operation: Operation, emit: Emitter) -> View:
    """ONNX Softsign-1 = x / (1 + |x|)."""
    x = emit.take(operation.inputs[0])
    return emit.binary("DIV", x, emit.binary("ADD", emit.unary("ABS", x), emit.scalar(1, x)))


@lowers("IsNaN")
def is_nan(operation: Operation, emit: Emitter) -> View:
    """ONNX IsNaN-13: what differs from itself."""
    x = emit.take(operation.inputs[0])
    return emit.truth("NOT_EQUAL", x, x)


_MOST = float(np.finfo(np.float32).max)


@lowers("IsInf", honours={"detect_negative", "detect_positive"})
def is_inf(operation: Operation, emit: Emitter) -> View:
    """ONNX IsInf-10: what is beyond the largest number, on the sides that are asked for."""
    x = emit.take(operation.inputs[0])
    below, above = (bool(operation.attributes.get(f"detect_{side}", 1)) for side in ("negative", "positive"))
    if below and above:
        return emit.truth("GREATER", emit.unary("ABS", x), emit.scalar(_MOST, x))
    if below:
        return emit.truth("LESS", x, emit.scalar(-_MOST, x))
    # With neither side asked for, nothing is greater than itself.
    return emit.truth("GREATER", x, emit.scalar(_MOST, x) if above else x)


@lowers("Xor")
def exclusive_or(operation: Operation, emit: Emitter) -> View:
    """ONNX Xor-7 -> NOT_EQUAL of booleans."""
    return broadcast("NOT_EQUAL", operation, emit, operation.inputs)


@lowers("Mod", honours={"fmod"})
def mod(operation: Operation, emit: Emitter) -> View:
    """ONNX Mod-13: with the divisor's sign FLOOR_MOD, with the dividend's (fmod 1) sign(x) * FLOOR_MOD(|x|, |y|), exact as C's fmod."""
    if not operation.attributes.get("fmod", 0):
        return broadcast("FLOOR_MOD", operation, emit, operation.inputs)
    first, second = operation.inputs[:2]
    assert first is not None and second is not None
    x, y = emit.take(first), emit.take(second)
    names = [f"{operation.outputs[0].name}/{part}" for part in ("dividend", "divisor", "sign", "remainder")]
    held = [replace(operand, name=name, constant=None) for operand, name in zip((first, second, first), names, strict=False)]
    for operand, view in zip(held, (emit.unary("ABS", x), emit.unary("ABS", y), emit.unary("SIGN", x)), strict=True):
        emit.bind(operand.name, view)
    remainder = replace(operation.outputs[0], name=names[-1])
    emit.bind(remainder.name, broadcast("FLOOR_MOD", replace(operation, outputs=(remainder,), activation=""), emit, held[:2]))
    return broadcast("MUL", operation, emit, (remainder, held[2]))


@lowers("CumSum", honours={"exclusive", "reverse"}, objects=(constant_inputs(1),))
def cumulative_sum(operation: Operation, emit: Emitter) -> View:
    """ONNX CumSum-14 -> CUMSUM along the axis where it lies."""
    x, axis = emit.take(operation.inputs[0]), operation.inputs[1]
    assert axis is not None and axis.constant is not None
    x = emit.plain(x) if x.layout.merged else x
    fields = {name: bool(operation.attributes.get(name, 0)) for name in ("exclusive", "reverse")}
    position = emit.indices("axis", x.layout.position(int(axis.constant.item())))
    return emit.run("CUMSUM", [x, position], emit.output(operation.outputs[0], x.layout), Options("CumsumOptions", fields))


def _odd_size(operation: Operation) -> Refusal:
    size = int(operation.attributes["size"])
    return None if size % 2 else (f"its window of {size} channels has no middle", "use an odd size")


@lowers("LRN", honours={"alpha", "beta", "bias", "size"}, objects=(ranks(4), _odd_size))
def local_response_normalization(operation: Operation, emit: Emitter) -> View:
    """ONNX LRN-13 -> LOCAL_RESPONSE_NORMALIZATION, whose alpha is for each channel of the window of 2 * radius + 1."""
    x, size = emit.image(emit.take(operation.inputs[0])), int(operation.attributes["size"])
    fields = {
        "radius": size // 2,
        "bias": _attribute(operation, "bias", 1),
        "alpha": _attribute(operation, "alpha", 1e-4) / size,
        "beta": _attribute(operation, "beta", 0.75),
    }
    output = emit.output(operation.outputs[0], x.layout)
    return emit.run("LOCAL_RESPONSE_NORMALIZATION", [x], output, Options("LocalResponseNormalizationOptions", fields))
