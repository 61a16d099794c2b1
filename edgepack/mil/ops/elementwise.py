"""Arithmetic, comparisons and functions of one value (coremltools iOS15/elementwise_binary.py, elementwise_unary.py).

Binary operations broadcast as numpy does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgepack.mil.operation import Array, Build, Kernel, MilOperation, implements


def _binary(function: Callable[..., Array]) -> Build:
    return lambda operation: operation.bind(("x", "y"), function)


def _unary(function: Callable[..., Array]) -> Build:
    return lambda operation: operation.bind(("x",), function)


_BINARY: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "pow": np.power,
    "floor_div": np.floor_divide,
    "mod": np.mod,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}

_UNARY: dict[str, Callable[..., Array]] = {
    "identity": np.array,
    "abs": np.abs,
    "acos": np.arccos,
    "asin": np.arcsin,
    "atan": np.arctan,
    "atanh": np.arctanh,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "logical_not": np.logical_not,
    "round": np.rint,
    "sign": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
}

for _type, _function in _BINARY.items():
    implements(_type, accepts=("x", "y"))(_binary(_function))
for _type, _function in _UNARY.items():
    implements(_type, accepts=("x",))(_unary(_function))


@implements("real_div", accepts=("x", "y"))
def real_div(operation: MilOperation) -> Kernel:
    """``x / y``. Of integers the whole part; Apple shows it for positive quotients only, so a negative fraction is refused."""
    if not operation.outputs[0].dtype.startswith("int"):
        return operation.bind(("x", "y"), np.divide)

    def kernel(x: Array, y: Array) -> Array:
        quotient = np.divide(x, y, dtype=np.float64)
        if not np.isfinite(quotient).all() or ((quotient < 0) & (quotient != np.trunc(quotient))).any():
            raise operation.refusal("divides integers by zero, or to a negative fraction, which Core ML documents no rounding for")
        return np.asarray(np.trunc(quotient))

    return operation.bind(("x", "y"), kernel)


@implements("select", accepts=("cond", "a", "b"))
def select(operation: MilOperation) -> Kernel:
    """``a`` where ``cond``, else ``b``."""
    return operation.bind(("cond", "a", "b"), lambda condition, a, b: np.asarray(np.where(condition, a, b)))


@implements("clip", accepts=("x", "alpha", "beta"))
def clip(operation: MilOperation) -> Kernel:
    """``min(max(x, alpha), beta)``."""
    low, high = operation.number("alpha", 0), operation.number("beta", 0)
    return operation.bind(("x",), lambda x: np.clip(x, low, high))


@implements("inverse", accepts=("x", "epsilon"))
def inverse(operation: MilOperation) -> Kernel:
    """``1 / (x + epsilon)``; epsilon defaults to 1e-4."""
    epsilon = operation.number("epsilon", 1e-4)
    return operation.bind(("x",), lambda x: np.float32(1) / (x + epsilon))


@implements("rsqrt", accepts=("x", "epsilon"))
def rsqrt(operation: MilOperation) -> Kernel:
    """``1 / sqrt(x + epsilon)``; epsilon defaults to 1e-12."""
    epsilon = operation.number("epsilon", 1e-12)
    return operation.bind(("x",), lambda x: np.float32(1) / np.sqrt(x + epsilon))


@implements("log", accepts=("x", "epsilon"))
def log(operation: MilOperation) -> Kernel:
    """``ln(x + epsilon)``; epsilon defaults to 1e-45."""
    epsilon = operation.number("epsilon", 1e-45)
    return operation.bind(("x",), lambda x: np.log(x + epsilon))


@implements("erf", accepts=("x",))
def erf(operation: MilOperation) -> Kernel:
    """Gauss's error function."""
    return operation.bind(("x",), error_function)


@implements("cast", accepts=("x", "dtype"))
def cast(operation: MilOperation) -> Kernel:
    """To the declared dtype; reals become integers by truncation, and anything but zero is true."""
    return operation.bind(("x",), lambda x: np.trunc(x) if operation.outputs[0].dtype.startswith("int") else np.array(x))


# erf(x) is 1 to float32 precision from x = 4 on; at 6 the error is 2e-17.
_ERF_END = 6.0
# Cubic Hermite interpolation is within h^4 / 384 * max|f''''| = (6/4096)^4 / 384 * 9 = 1e-13 of erf.
_ERF_KNOTS = 4096
_ERF_STEP = _ERF_END / _ERF_KNOTS
_ERF_VALUES = np.array([math.erf(index * _ERF_STEP) for index in range(_ERF_KNOTS + 1)])
_ERF_SLOPES = 2 / math.sqrt(math.pi) * np.exp(-np.square(np.arange(_ERF_KNOTS + 1) * _ERF_STEP)) * _ERF_STEP


def error_function(x: Array) -> Array:
    """erf(x) of any shape in float64, within 1e-13."""
    wide = np.asarray(x, np.float64)
    position = np.minimum(np.abs(wide), _ERF_END) / _ERF_STEP
    knot = np.minimum(np.nan_to_num(position).astype(np.int64), _ERF_KNOTS - 1)
    t = position - knot
    left, right = _ERF_VALUES[knot], _ERF_VALUES[knot + 1]
    start, end = _ERF_SLOPES[knot], _ERF_SLOPES[knot + 1]
    cubic = left + t * (start + t * (3 * (right - left) - 2 * start - end + t * (2 * (left - right) + start + end)))
    return np.asarray(np.copysign(cubic, wide))
