"""Trigonometric and hyperbolic functions, functions in pieces, tests of numbers, remainders and running sums."""

from __future__ import annotations

import numpy as np

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import constant_at, lowers, needs_constants, required
from edgepack.quantize.fold import Operation

for _onnx in ("Acos", "Asin", "Atan", "Atanh", "Cosh", "Sinh", "Tan"):

    @lowers(_onnx)
    def function(operation: Operation, emit: Emitter) -> Var:
        """ONNX Acos-7, ..., Tan-7: MIL's operation of the same name."""
        return emit(operation.op_type.lower(), x=emit.value(required(operation, 0)))


# |t| <= 1/3 in _atanh_series: after these terms in t^2 <= 1/9 the rest is below 9^-8 / 17 = 1.4e-9 of the sum.
_ATANH_TERMS = 8


def _atanh_series(t: Var, emit: Emitter) -> Var:
    """atanh(t) = t (1 + t^2/3 + t^4/5 + ...) for |t| <= 1/3, where a logarithm near 1 has no relative accuracy."""
    square = emit("mul", x=t, y=t)
    total = emit("mul", x=square, y=emit.number(1 / (2 * _ATANH_TERMS - 1)))
    for term in range(_ATANH_TERMS - 2, 0, -1):
        total = emit("mul", x=emit("add", x=total, y=emit.number(1 / (2 * term + 1))), y=square)
    return emit("mul", x=emit("add", x=total, y=emit.number(1)), y=t)


def _log_of_both(x: Var, sign: float, emit: Emitter) -> Var:
    """log(x + sqrt(x^2 + sign)) of x > 0, without the square of x, which may overflow."""
    inverse = emit("real_div", x=emit.number(1), y=x)
    square = emit("mul", x=emit("mul", x=inverse, y=inverse), y=emit.number(sign))
    both = emit("add", x=emit("sqrt", x=emit("add", x=square, y=emit.number(1))), y=emit.number(1))
    logarithms = [emit("log", x=value, epsilon=emit.number(0)) for value in (x, both)]
    return emit("add", x=logarithms[0], y=logarithms[1])


# Below, asinh is a series in t = x / (1 + sqrt(1 + x^2)), which is 1/3 at x = 3/4.
_ASINH_SMALL = 0.75


@lowers("Asinh")
def asinh(operation: Operation, emit: Emitter) -> Var:
    """ONNX Asinh-9: 2 atanh(x / (1 + sqrt(1 + x^2))) for |x| < 3/4, else sign(x) (log |x| + log(1 + sqrt(1 + 1 / x^2)))."""
    x, bound, one = emit.value(required(operation, 0)), emit.number(_ASINH_SMALL), emit.number(1)
    magnitude = emit("abs", x=x)
    near = emit("minimum", x=magnitude, y=bound)
    root = emit("sqrt", x=emit("add", x=emit("mul", x=near, y=near), y=one))
    series = _atanh_series(emit("real_div", x=near, y=emit("add", x=root, y=one)), emit)
    large = _log_of_both(emit("maximum", x=magnitude, y=bound), 1, emit)
    chosen = emit("select", cond=emit("less", x=magnitude, y=bound), a=emit("add", x=series, y=series), b=large)
    return emit("mul", x=chosen, y=emit("sign", x=x))


# Below, acosh is a series in t = sqrt((x - 1) / (x + 1)), which is 1/3 at x = 5/4.
_ACOSH_SMALL = 1.25


@lowers("Acosh")
def acosh(operation: Operation, emit: Emitter) -> Var:
    """ONNX Acosh-9: 2 atanh(sqrt((x - 1) / (x + 1))) for x < 5/4, which is NaN below 1, else log(x + sqrt(x^2 - 1))."""
    x, bound, one = emit.value(required(operation, 0)), emit.number(_ACOSH_SMALL), emit.number(1)
    near = emit("minimum", x=x, y=bound)
    ratio = emit("real_div", x=emit("sub", x=near, y=one), y=emit("add", x=near, y=one))
    series = _atanh_series(emit("sqrt", x=ratio), emit)
    large = _log_of_both(emit("maximum", x=x, y=bound), -1, emit)
    return emit("select", cond=emit("less", x=x, y=bound), a=emit("add", x=series, y=series), b=large)


# ONNX Selu-6.
_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


def _attribute(operation: Operation, name: str, default: float) -> float:
    return float(operation.attributes.get(name, default))


@lowers("Selu", honours={"alpha", "gamma"})
def selu(operation: Operation, emit: Emitter) -> Var:
    """ONNX Selu-6 = gamma * elu(x, alpha)."""
    bent = emit("elu", x=emit.value(required(operation, 0)), alpha=emit.number(_attribute(operation, "alpha", _SELU_ALPHA)))
    return emit("mul", x=bent, y=emit.number(_attribute(operation, "gamma", _SELU_GAMMA)))


@lowers("Celu", honours={"alpha"})
def celu(operation: Operation, emit: Emitter) -> Var:
    """ONNX Celu-12 = max(x, 0) + min(alpha * (e^(x / alpha) - 1), 0)."""
    x, alpha = emit.value(required(operation, 0)), _attribute(operation, "alpha", 1)
    if alpha == 1:
        return emit("elu", x=x, alpha=emit.number(1))
    scaled = emit("mul", x=emit("minimum", x=x, y=emit.number(0)), y=emit.number(1 / alpha))
    return emit("add", x=emit("elu", x=scaled, alpha=emit.number(alpha)), y=emit("relu", x=x))


@lowers("ThresholdedRelu", honours={"alpha"})
def thresholded_relu(operation: Operation, emit: Emitter) -> Var:
    """ONNX ThresholdedRelu-10: x where it is above alpha, else 0; MIL's own keeps alpha itself too."""
    x = emit.value(required(operation, 0))
    above = emit("greater", x=x, y=emit.number(_attribute(operation, "alpha", 1)))
    return emit("select", cond=above, a=x, b=emit.number(0))


@lowers("Shrink", honours={"bias", "lambd"})
def shrink(operation: Operation, emit: Emitter) -> Var:
    """ONNX Shrink-9: x + bias below -lambd, x - bias above lambd, else 0."""
    x, bias, bound = emit.value(required(operation, 0)), _attribute(operation, "bias", 0), _attribute(operation, "lambd", 0.5)
    is_above, is_below = emit("greater", x=x, y=emit.number(bound)), emit("less", x=x, y=emit.number(-bound))
    above = emit("select", cond=is_above, a=emit("sub", x=x, y=emit.number(bias)), b=emit.number(0))
    return emit("select", cond=is_below, a=emit("add", x=x, y=emit.number(bias)), b=above)


@lowers("IsNaN", reals=False)
def is_nan(operation: Operation, emit: Emitter) -> Var:
    """ONNX IsNaN-13: what differs from itself."""
    x = emit.value(required(operation, 0))
    return emit("not_equal", x=x, y=x)


@lowers("IsInf", honours={"detect_negative", "detect_positive"}, reals=False)
def is_inf(operation: Operation, emit: Emitter) -> Var:
    """ONNX IsInf-10: what is beyond the largest number of the precision, on the sides that are asked for."""
    x, most = emit.value(required(operation, 0)), np.finfo(emit.dtype).max
    below, above = (bool(operation.attributes.get(f"detect_{side}", 1)) for side in ("negative", "positive"))
    if below and above:
        return emit("greater", x=emit("abs", x=x), y=most)
    if below:
        return emit("less", x=x, y=-most)
    # With neither side asked for, nothing is greater than itself.
    return emit("greater", x=x, y=most if above else x)


@lowers("Mod", honours={"fmod"}, reals=False)
def mod(operation: Operation, emit: Emitter) -> Var:
    """ONNX Mod-13: with the divisor's sign MIL's mod, with the dividend's (fmod 1) sign(x) * mod(|x|, |y|)."""
    x, y = (emit.value(required(operation, position)) for position in (0, 1))
    if not operation.attributes.get("fmod", 0):
        return emit("mod", x=x, y=y)
    remainder = emit("mod", x=emit("abs", x=x), y=emit("abs", x=y))
    return emit("mul", x=remainder, y=emit("sign", x=x))


@lowers("CumSum", honours={"exclusive", "reverse"}, reals=False, objects=(needs_constants(1),))
def cumulative_sum(operation: Operation, emit: Emitter) -> Var:
    """ONNX CumSum-14."""
    x = required(operation, 0)
    flags = {name: bool(operation.attributes.get(name, 0)) for name in ("exclusive", "reverse")}
    return emit("cumsum", x=emit.value(x), axis=int(np.ravel(constant_at(operation, 1))[0]) % x.rank, **flags)


def _window(operation: Operation) -> tuple[str, str] | None:
    size, rank = operation.attributes["size"], required(operation, 0).rank
    if rank not in (3, 4):
        return f"normalizes rank {rank}", "use an input of rank 3 or 4"
    return None if size % 2 else (f"its window of {size} channels has no middle", "use an odd size")


@lowers("LRN", honours={"alpha", "beta", "bias", "size"}, objects=(_window,))
def local_response_normalization(operation: Operation, emit: Emitter) -> Var:
    """ONNX LRN-13, whose alpha is divided by the size in both. Of rank 3 Apple's tests do not agree where channels are: rank 4 is used."""
    values = {"alpha": ("alpha", 1e-4), "beta": ("beta", 0.75), "k": ("bias", 1.0)}
    parameters = {name: emit.number(_attribute(operation, given, default)) for name, (given, default) in values.items()}
    x, size = required(operation, 0), int(operation.attributes["size"])
    value = emit.value(x) if x.rank == 4 else emit("expand_dims", x=emit.value(x), axes=[3])
    found = emit("local_response_norm", x=value, size=size, **parameters)
    return found if x.rank == 4 else emit("squeeze", x=found, axes=[3])
