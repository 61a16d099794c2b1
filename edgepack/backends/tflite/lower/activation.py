"""Elementwise functions of one tensor. They keep whatever order their input lies in."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from edgepack.backends.tflite.emit import Emitter, arithmetic
from edgepack.backends.tflite.layout import Layout
from edgepack.backends.tflite.lower.elementwise import broadcast
from edgepack.backends.tflite.lower.selection import last_axis
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import Refusal, always, constant_inputs, lowers, output_encoding
from edgepack.quantize.fold import Operation

_KERNELS = {
    "Exp": "EXP",
    "Log": "LOG",
    "Sqrt": "SQRT",
    "Abs": "ABS",
    "Neg": "NEG",
    "Floor": "FLOOR",
    "Ceil": "CEIL",
    "Round": "ROUND",
    "Sign": "SIGN",
    "Sin": "SIN",
    "Cos": "COS",
    "Not": "LOGICAL_NOT",
}


def keeping(name: str, operation: Operation, emit: Emitter, options: Options | None = None) -> View:
    """One kernel, output laid out as its input."""
    x = emit.take(operation.inputs[0])
    return emit.run(name, [x], emit.output(operation.outputs[0], x.layout, operation.op_type), options)


@lowers(*_KERNELS)
def function(operation: Operation, emit: Emitter) -> View:
    """ONNX Exp-13, Log-13, Sqrt-13, ... -> the kernel of the same name, in float."""
    return keeping(_KERNELS[operation.op_type], operation, emit)


@lowers("Reciprocal")
def reciprocal(operation: Operation, emit: Emitter) -> View:
    """ONNX Reciprocal-13 = 1 / x -> DIV."""
    x = emit.take(operation.inputs[0])
    one = emit.constant("one", np.ones((1,) * len(x.stored), np.float32))
    return emit.run("DIV", [one, x], emit.output(operation.outputs[0], x.layout), arithmetic("DIV"))


@lowers("Relu")
def relu(operation: Operation, emit: Emitter) -> View:
    """ONNX Relu-14 that no producer could absorb -> RELU."""
    return keeping("RELU", operation, emit)


@lowers("LeakyRelu", honours={"alpha"})
def leaky_relu(operation: Operation, emit: Emitter) -> View:
    """ONNX LeakyRelu-16 -> LEAKY_RELU, in float: the int8 kernel is up to 0.7 of a step off (0.2 beyond rounding, measured)."""
    return keeping("LEAKY_RELU", operation, emit, Options("LeakyReluOptions", {"alpha": float(operation.attributes.get("alpha", 0.01))}))


@lowers("PRelu")
def prelu(operation: Operation, emit: Emitter) -> View:
    """ONNX PRelu-16 = max(x, 0) + slope * min(x, 0), whose slope broadcasts as any operand does."""
    x = emit.take(operation.inputs[0])
    # The slope has an element for each feature of a flattened image in the hub's order.
    x = emit.plain(x) if x.layout.merged else x
    zero = emit.scalar(0, x)
    negative = emit.binary("MINIMUM", x, zero)
    scaled = _bound_product(operation, emit, negative)
    return emit.run("ADD", [emit.unary("RELU", x), scaled], emit.output(operation.outputs[0], x.layout), arithmetic("ADD"))


def _bound_product(operation: Operation, emit: Emitter, negative: View) -> View:
    """``negative`` times the slope, in the order ``negative`` lies."""
    first = operation.inputs[0]
    assert first is not None
    held = replace(first, name=f"{operation.outputs[0].name}/negative")
    emit.bind(held.name, negative)
    product = replace(operation.outputs[0], name=f"{held.name}/scaled")
    return broadcast("MUL", replace(operation, outputs=(product,), activation=""), emit, (held, operation.inputs[1]))


@lowers("Sigmoid", integer=(output_encoding(1 / 256, -128),))
def sigmoid(operation: Operation, emit: Emitter) -> View:
    """ONNX Sigmoid-13 -> LOGISTIC."""
    return keeping("LOGISTIC", operation, emit)


@lowers("Tanh", integer=(output_encoding(1 / 128, 0),))
def tanh(operation: Operation, emit: Emitter) -> View:
    """ONNX Tanh-13 -> TANH."""
    return keeping("TANH", operation, emit)


@lowers("HardSwish")
def hard_swish(operation: Operation, emit: Emitter) -> View:
    """ONNX HardSwish-14 -> HARD_SWISH."""
    return keeping("HARD_SWISH", operation, emit, Options("HardSwishOptions"))


@lowers("HardSigmoid", honours={"alpha", "beta"})
def hard_sigmoid(operation: Operation, emit: Emitter) -> View:
    """ONNX HardSigmoid-6 = max(0, min(1, alpha * x + beta))."""
    x = emit.take(operation.inputs[0])
    scaled = emit.binary("MUL", x, emit.scalar(float(operation.attributes.get("alpha", 0.2)), x))
    beta = emit.scalar(float(operation.attributes.get("beta", 0.5)), x)
    shifted = emit.binary("ADD", scaled, beta, arithmetic("ADD", "Relu"))
    return emit.run("MINIMUM", [shifted, emit.scalar(1, x)], emit.output(operation.outputs[0], x.layout, "Relu"), arithmetic("MINIMUM"))


# log1p(u) = 2 atanh(t), t = u / (u + 2) <= 1/3: after these terms in t^2 <= 1/9 the rest is below 9^-8 / 17 = 1.4e-9 of the sum.
_ATANH_TERMS = 8


def _softplus(x: View, emit: Emitter) -> View:
    """log(1 + e^x) as max(x, 0) + log1p(e^-|x|), whose exponential cannot overflow.

    LOG is right to 1e-7 absolute near 1 only, which is all there is far below zero: log1p is a series instead.
    """
    decay = emit.unary("EXP", emit.unary("NEG", emit.unary("ABS", x)))
    t = emit.binary("DIV", decay, emit.binary("ADD", decay, emit.scalar(2, x)))
    square = emit.binary("MUL", t, t)
    total = emit.binary("MUL", square, emit.scalar(1 / (2 * _ATANH_TERMS - 1), x))
    for term in range(_ATANH_TERMS - 2, 0, -1):
        total = emit.binary("MUL", emit.binary("ADD", total, emit.scalar(1 / (2 * term + 1), x)), square)
    series = emit.binary("MUL", emit.binary("ADD", total, emit.scalar(1, x)), t)
    return emit.binary("ADD", emit.unary("RELU", x), emit.binary("ADD", series, series))


@lowers("Softplus")
def softplus(operation: Operation, emit: Emitter) -> View:
    """ONNX Softplus-1."""
    return _softplus(emit.take(operation.inputs[0]), emit)


@lowers("Mish")
def mish(operation: Operation, emit: Emitter) -> View:
    """ONNX Mish-18 = x * tanh(softplus(x)) = x * n / (n + 2) with n = e^x (e^x + 2): log(1 + e^x) is 0 where e^x is below 2^-24.

    From x = 20 on the quotient is 1 in float32, and e^40 far from the largest number.
    """
    x = emit.take(operation.inputs[0])
    power = emit.unary("EXP", emit.binary("MINIMUM", x, emit.scalar(20, x)))
    n = emit.binary("MUL", power, emit.binary("ADD", power, emit.scalar(2, x)))
    bent = emit.binary("DIV", n, emit.binary("ADD", n, emit.scalar(2, x)))
    return emit.run("MUL", [x, bent], emit.output(operation.outputs[0], x.layout), arithmetic("MUL"))


@lowers("Elu", honours={"alpha"})
def elu(operation: Operation, emit: Emitter) -> View:
    """ONNX Elu-6 -> ELU for alpha 1, else max(x, 0) + alpha * elu(min(x, 0))."""
    alpha = float(operation.attributes.get("alpha", 1.0))
    if alpha == 1:
        return keeping("ELU", operation, emit)
    x = emit.take(operation.inputs[0])
    below = emit.unary("ELU", emit.binary("MINIMUM", x, emit.scalar(0, x)))
    scaled = emit.binary("MUL", below, emit.scalar(alpha, x))
    return emit.run("ADD", [emit.unary("RELU", x), scaled], emit.output(operation.outputs[0], x.layout), arithmetic("ADD"))


@lowers("Gelu", honours={"approximate"})
def gelu(operation: Operation, emit: Emitter) -> View:
    """ONNX Gelu-20 -> GELU."""
    approximate = operation.attributes.get("approximate", "none") == "tanh"
    return keeping("GELU", operation, emit, Options("GeluOptions", {"approximate": approximate}))


# Below the first, 2 gelu(a) / a - 1 is under the rounding of float32 anyway, and a division by zero is avoided; at the second erf is 1,
# and infinity would be divided by itself.
_SMALLEST_ERF_ARGUMENT, _LARGEST_ERF_ARGUMENT = 1e-6, 8


@lowers("Erf")
def erf(operation: Operation, emit: Emitter) -> View:
    """ONNX Erf-13, which TFLite has only inside GELU: gelu(a) = a (1 + erf(a / sqrt 2)) / 2.

    So erf(x) = sign(x) (2 gelu(a) / a - 1) with a = |x| sqrt 2 between 1e-6 and 8; absolute error under 1e-6.
    """
    x = emit.take(operation.inputs[0])
    scaled = emit.binary("MUL", emit.unary("ABS", x), emit.scalar(math.sqrt(2), x))
    raised = emit.binary("MAXIMUM", scaled, emit.scalar(_SMALLEST_ERF_ARGUMENT, x))
    a = emit.binary("MINIMUM", raised, emit.scalar(_LARGEST_ERF_ARGUMENT, x))
    ratio = emit.binary("DIV", emit.unary("GELU", a, options=Options("GeluOptions", {"approximate": False})), a)
    positive = emit.binary("SUB", emit.binary("MUL", ratio, emit.scalar(2, x)), emit.scalar(1, x))
    return emit.run("MUL", [positive, emit.unary("SIGN", x)], emit.output(operation.outputs[0], x.layout), arithmetic("MUL"))


_CLAMPS = {(0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1", (0.0, math.inf): "RELU"}


def clamp_kernel(low: float | None, high: float | None) -> str | None:
    """The activation kernel that clamps to exactly this range, None when there is none."""
    return _CLAMPS.get((-math.inf if low is None else low, math.inf if high is None else high))


@lowers("Clip", objects=(constant_inputs(1, 2),))
def clip(operation: Operation, emit: Emitter) -> View:
    """ONNX Clip-13 that no producer could absorb -> RELU6 and its kin, else MAXIMUM then MINIMUM."""
    x = emit.take(operation.inputs[0])
    low, high = (None if bound is None else bound.real().item() for bound in (*operation.inputs[1:], None, None)[:2])
    kernel = clamp_kernel(low, high) if x.tensor.dtype == "float32" else None
    if kernel is not None:
        return emit.run(kernel, [x], emit.output(operation.outputs[0], x.layout, "Relu" if low == 0 else ""))
    raised = x if low is None else emit.binary("MAXIMUM", x, emit.scalar(low, x))
    return raised if high is None else emit.binary("MINIMUM", raised, emit.scalar(high, x))


def _softmax_input(operation: Operation, emit: Emitter) -> View:
    """The input with the operator's axis last, where the kernels look."""
    return last_axis(emit.take(operation.inputs[0]), int(operation.attributes.get("axis", -1)), emit)


@lowers("Softmax", honours={"axis"}, integer=(output_encoding(1 / 256, -128),), in_float=always)
def softmax(operation: Operation, emit: Emitter) -> View:
    """ONNX Softmax-13 -> SOFTMAX over the last stored axis."""
    x = _softmax_input(operation, emit)
    return emit.run("SOFTMAX", [x], emit.output(operation.outputs[0], x.layout), Options("SoftmaxOptions", {"beta": 1.0}))


@lowers("LogSoftmax", honours={"axis"})
def log_softmax(operation: Operation, emit: Emitter) -> View:
    """ONNX LogSoftmax-13 -> LOG_SOFTMAX over the last stored axis."""
    x = _softmax_input(operation, emit)
    return emit.run("LOG_SOFTMAX", [x], emit.output(operation.outputs[0], x.layout), Options("LogSoftmaxOptions"))


@lowers("Cast", honours={"to", "saturate"})
def cast(operation: Operation, emit: Emitter) -> View:
    """ONNX Cast-21 among float32, int32, int64 and bool -> CAST; int64 to int32 changes nothing here."""
    x = emit.take(operation.inputs[0])
    output = emit.output(operation.outputs[0], Layout(x.layout.view, x.layout.order, x.layout.merged))
    if output.tensor.dtype == x.tensor.dtype:
        return x
    fields = {"inDataType": x.tensor.dtype, "outDataType": output.tensor.dtype}
    return emit.run("CAST", [x], output, Options("CastOptions", fields))


def _no_mask(operation: Operation) -> Refusal:
    return None if len(operation.outputs) == 1 else ("the mask output has no kernel", "read the first output only")


def _has_elements(operation: Operation) -> Refusal:
    """LiteRT gives no tensor without elements back."""
    shape = operation.outputs[0].shape
    return (f"its output of shape {shape} has no elements", "leave this output out") if 0 in shape else None


@lowers("Identity", "Dropout", honours={"seed"}, objects=(_no_mask, _has_elements))
def identity(operation: Operation, emit: Emitter) -> View:
    """ONNX Identity-19, Dropout-13 at inference: the same tensor."""
    return emit.take(operation.inputs[0])
