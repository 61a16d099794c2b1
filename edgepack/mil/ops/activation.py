"""Activations (coremltools iOS15/activation.py, iOS15/elementwise_unary.py)."""

from __future__ import annotations

import math

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements
from edgepack.mil.ops.elementwise import error_function


@implements("relu", accepts=("x",), selects=True)
def relu(operation: MilOperation) -> Kernel:
    """``max(x, 0)``."""
    return operation.bind(("x",), lambda x: np.maximum(x, np.float32(0)))


@implements("relu6", accepts=("x",), selects=True)
def relu6(operation: MilOperation) -> Kernel:
    """``min(max(x, 0), 6)``."""
    return operation.bind(("x",), lambda x: np.clip(x, np.float32(0), np.float32(6)))


@implements("leaky_relu", accepts=("x", "alpha"))
def leaky_relu(operation: MilOperation) -> Kernel:
    """``x`` where positive, ``alpha * x`` elsewhere; alpha defaults to 0.01."""
    alpha = operation.number("alpha", 0.01)
    return operation.bind(("x",), lambda x: np.where(x >= 0, x, alpha * x))


@implements("prelu", accepts=("x", "alpha"))
def prelu(operation: MilOperation) -> Kernel:
    """leaky_relu with an alpha for each channel (dimension 1)."""
    rank = operation.outputs[0].rank
    alpha = operation.array("alpha").reshape([-1, *[1] * (rank - 2)])
    return operation.bind(("x",), lambda x: np.where(x >= 0, x, alpha * x))


@implements("elu", accepts=("x", "alpha"))
def elu(operation: MilOperation) -> Kernel:
    """``x`` where positive, ``alpha * (exp(x) - 1)`` elsewhere; alpha defaults to 1."""
    alpha = operation.number("alpha", 1)
    return operation.bind(("x",), lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))))


@implements("sigmoid", accepts=("x",))
def sigmoid(operation: MilOperation) -> Kernel:
    """``1 / (1 + exp(-x))``."""
    return operation.bind(("x",), _logistic)


@implements("silu", accepts=("x",))
def silu(operation: MilOperation) -> Kernel:
    """``x * sigmoid(x)``."""
    return operation.bind(("x",), lambda x: x * _logistic(x))


@implements("sigmoid_hard", accepts=("x", "alpha", "beta"))
def sigmoid_hard(operation: MilOperation) -> Kernel:
    """``min(max(alpha * x + beta, 0), 1)``; alpha defaults to 0.2, beta to 0.5."""
    alpha, beta = operation.number("alpha", 0.2), operation.number("beta", 0.5)
    return operation.bind(("x",), lambda x: np.clip(alpha * x + beta, np.float32(0), np.float32(1)))


@implements("softplus", accepts=("x",))
def softplus(operation: MilOperation) -> Kernel:
    """``ln(1 + exp(x))``."""
    return operation.bind(("x",), lambda x: np.logaddexp(x, np.float32(0)))


@implements("softsign", accepts=("x",))
def softsign(operation: MilOperation) -> Kernel:
    """``x / (1 + |x|)``."""
    return operation.bind(("x",), lambda x: x / (1 + np.abs(x)))


@implements("gelu", accepts=("x", "mode"))
def gelu(operation: MilOperation) -> Kernel:
    """``x * Phi(x)``, exactly or by the tanh or sigmoid formula of Hendrycks and Gimpel."""
    modes = {
        "EXACT": _gelu_exact,
        "TANH_APPROXIMATION": _gelu_tanh,
        "SIGMOID_APPROXIMATION": lambda x: x * _logistic(np.float32(1.702) * x),
    }
    mode = operation.text("mode", "EXACT")
    if mode not in modes:
        raise operation.refusal(f"has mode {mode}")
    return operation.bind(("x",), modes[mode])


@implements("softmax", accepts=("x", "axis"))
def softmax(operation: MilOperation) -> Kernel:
    """``exp(x) / sum(exp(x))`` along ``axis`` (default -1), with the maximum taken off first."""
    (axis,) = operation.integers("axis", (-1,))
    return operation.bind(("x",), lambda x: normalized_exponentials(x, axis))


def normalized_exponentials(x: Array, axis: int) -> Array:
    """The softmax of ``x`` along ``axis``."""
    raised = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(raised / raised.sum(axis=axis, keepdims=True))


@implements("clamped_relu", accepts=("x", "alpha", "beta"))
def clamped_relu(operation: MilOperation) -> Kernel:
    """``min(beta, x)`` where ``x >= 0``, ``min(beta, alpha * x)`` elsewhere."""
    alpha, beta = _alpha_and_beta(operation)
    return operation.bind(("x",), lambda x: np.minimum(beta, np.where(x >= 0, x, alpha * x)))


@implements("linear_activation", accepts=("x", "alpha", "beta"))
def linear_activation(operation: MilOperation) -> Kernel:
    """``alpha * x + beta``."""
    alpha, beta = _alpha_and_beta(operation)
    return operation.bind(("x",), lambda x: alpha * x + beta)


@implements("scaled_tanh", accepts=("x", "alpha", "beta"))
def scaled_tanh(operation: MilOperation) -> Kernel:
    """``alpha * tanh(beta * x)``."""
    alpha, beta = _alpha_and_beta(operation)
    return operation.bind(("x",), lambda x: alpha * np.tanh(beta * x))


@implements("thresholded_relu", accepts=("x", "alpha"))
def thresholded_relu(operation: MilOperation) -> Kernel:
    """``x`` where ``x >= alpha``, 0 elsewhere."""
    alpha = operation.array("alpha")
    return operation.bind(("x",), lambda x: np.where(x >= alpha, x, np.float32(0)))


@implements("threshold", accepts=("x", "alpha"), selects=True)
def threshold(operation: MilOperation) -> Kernel:
    """``max(x, alpha)``."""
    alpha = operation.array("alpha")
    return operation.bind(("x",), lambda x: np.maximum(x, alpha))


@implements("softplus_parametric", accepts=("x", "alpha", "beta"))
def softplus_parametric(operation: MilOperation) -> Kernel:
    """``alpha * ln(1 + exp(beta * x))`` with an alpha and a beta for each channel (dimension 1)."""
    shape = [-1, *[1] * (operation.outputs[0].rank - 2)]
    alpha, beta = (held.reshape(shape) for held in _alpha_and_beta(operation))
    return operation.bind(("x",), lambda x: alpha * np.logaddexp(beta * x, np.float32(0)))


def _alpha_and_beta(operation: MilOperation) -> tuple[Array, Array]:
    """The two required parameters, as float32."""
    return operation.array("alpha").astype(np.float32), operation.array("beta").astype(np.float32)


def _logistic(x: Array) -> Array:
    return np.asarray(np.float32(1) / (np.float32(1) + np.exp(-x)))


def _gelu_exact(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1 + error_function(x / math.sqrt(2))))


def _gelu_tanh(x: Array) -> Array:
    wide = x.astype(np.float64)
    return np.asarray(wide * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))))
