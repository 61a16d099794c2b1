"""Activations."""

from __future__ import annotations

import numpy as np

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import REALS, constant_at, lowers, needs_constants, only, required
from edgepack.quantize.fold import Operation


@lowers("Relu")
def relu(operation: Operation, emit: Emitter) -> Var:
    """ONNX Relu-14."""
    return emit("relu", x=emit.value(required(operation, 0)))


@lowers("Sigmoid")
def sigmoid(operation: Operation, emit: Emitter) -> Var:
    """ONNX Sigmoid-13."""
    return emit("sigmoid", x=emit.value(required(operation, 0)))


@lowers("Tanh")
def tanh(operation: Operation, emit: Emitter) -> Var:
    """ONNX Tanh-13."""
    return emit("tanh", x=emit.value(required(operation, 0)))


@lowers("Softplus")
def softplus(operation: Operation, emit: Emitter) -> Var:
    """ONNX Softplus-1."""
    return emit("softplus", x=emit.value(required(operation, 0)))


@lowers("Softsign")
def softsign(operation: Operation, emit: Emitter) -> Var:
    """ONNX Softsign-1."""
    return emit("softsign", x=emit.value(required(operation, 0)))


def _is_boolean(operation: Operation) -> tuple[str, str] | None:
    return ("clips booleans", "cast to int32 first") if required(operation, 0).dtype == "bool" else None


@lowers("Clip", honours={"min", "max"}, reals=False, objects=(needs_constants(1, 2), _is_boolean))
def clip(operation: Operation, emit: Emitter) -> Var:
    """ONNX Clip-13: the upper bound wins where the two cross, so it is applied last; either may be absent."""
    x = emit.value(required(operation, 0))
    low, high = constant_at(operation, 1, "min"), constant_at(operation, 2, "max")
    is_real = required(operation, 0).dtype in REALS
    if (low, high) == (0, 6) and is_real:
        return emit("relu6", x=x)
    bounds = [None if bound is None else _bound(bound, emit) if is_real else _whole_bound(bound) for bound in (low, high)]
    for kind, bound in zip(("maximum", "minimum"), bounds, strict=True):
        x = x if bound is None else emit(kind, x=x, y=bound)
    return x


def _whole_bound(value: float) -> np.int32:
    """int64 is int32 inside: what is beyond bounds nothing, and the last number of int32 says the same."""
    limits = np.iinfo(np.int32)
    return np.int32(np.clip(int(value), limits.min, limits.max))


def _bound(value: float, emit: Emitter) -> np.floating:
    """A bound beyond the precision's range bounds nothing, and the largest number of the precision says the same."""
    limit = float(np.finfo(emit.dtype).max)
    bound: np.floating = emit.number(float(np.clip(value, -limit, limit)))
    return bound


@lowers("LeakyRelu", honours={"alpha"})
def leaky_relu(operation: Operation, emit: Emitter) -> Var:
    """ONNX LeakyRelu-16."""
    alpha = emit.number(operation.attributes.get("alpha", 0.01))
    return emit("leaky_relu", x=emit.value(required(operation, 0)), alpha=alpha)


@lowers("Elu", honours={"alpha"})
def elu(operation: Operation, emit: Emitter) -> Var:
    """ONNX Elu-6."""
    return emit("elu", x=emit.value(required(operation, 0)), alpha=emit.number(operation.attributes.get("alpha", 1.0)))


@lowers("PRelu")
def prelu(operation: Operation, emit: Emitter) -> Var:
    """ONNX PRelu-16 as max(x, 0) + slope * min(x, 0), for a slope of any shape.

    MIL's own ``prelu`` takes one slope a channel and rank 4, and Apple's test of it in fp16 is marked as failing (rdar://92175249).
    """
    x, zero = emit.value(required(operation, 0)), emit.number(0)
    negative = emit("mul", x=emit("minimum", x=x, y=zero), y=emit.value(required(operation, 1)))
    return emit("add", x=emit("maximum", x=x, y=zero), y=negative)


@lowers("HardSigmoid", honours={"alpha", "beta"})
def hard_sigmoid(operation: Operation, emit: Emitter) -> Var:
    """ONNX HardSigmoid-6."""
    alpha, beta = operation.attributes.get("alpha", 0.2), operation.attributes.get("beta", 0.5)
    return emit("sigmoid_hard", x=emit.value(required(operation, 0)), alpha=emit.number(alpha), beta=emit.number(beta))


@lowers("HardSwish")
def hard_swish(operation: Operation, emit: Emitter) -> Var:
    """ONNX HardSwish-14: ``x * HardSigmoid(x)`` with alpha 1/6 and beta 1/2."""
    x = emit.value(required(operation, 0))
    return emit("mul", x=x, y=emit("sigmoid_hard", x=x, alpha=emit.number(1 / 6), beta=emit.number(0.5)))


@lowers("Softmax", honours={"axis"})
def softmax(operation: Operation, emit: Emitter) -> Var:
    """ONNX Softmax-13 along one axis."""
    return emit("softmax", x=emit.value(required(operation, 0)), axis=operation.attributes.get("axis", -1))


@lowers("LogSoftmax", honours={"axis"})
def log_softmax(operation: Operation, emit: Emitter) -> Var:
    """ONNX LogSoftmax-13: x - max - log(sum(exp(x - max))), whose sum is at least 1, so that no epsilon of MIL's ``log`` counts."""
    x, axis = emit.value(required(operation, 0)), operation.attributes.get("axis", -1)
    below = emit("sub", x=x, y=emit("reduce_max", x=x, axes=[axis], keep_dims=True))
    total = emit("reduce_sum", x=emit("exp", x=below), axes=[axis], keep_dims=True)
    return emit("sub", x=below, y=emit("log", x=total, epsilon=emit.number(0)))


@lowers("Mish")
def mish(operation: Operation, emit: Emitter) -> Var:
    """ONNX Mish-18: x * tanh(softplus(x))."""
    x = emit.value(required(operation, 0))
    return emit("mul", x=x, y=emit("tanh", x=emit("softplus", x=x)))


@lowers("Gelu", honours={"approximate"}, objects=(only("approximate", "none", "tanh"),))
def gelu(operation: Operation, emit: Emitter) -> Var:
    """ONNX Gelu-20."""
    exact = operation.attributes.get("approximate", "none") == "none"
    return emit("gelu", x=emit.value(required(operation, 0)), mode="EXACT" if exact else "TANH_APPROXIMATION")
