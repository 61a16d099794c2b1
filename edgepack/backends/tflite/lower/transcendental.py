"""Trigonometric and hyperbolic functions, of which TFLite has SIN, COS, TANH and ATAN2, by formulas that keep their relative accuracy."""

from __future__ import annotations

from collections.abc import Callable

from edgepack.backends.tflite.emit import Emitter
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import lowers
from edgepack.quantize.fold import Operation

_SELECT = Options("SelectV2Options")
# |t| <= 1/3 in _atanh_series: after these terms in t^2 <= 1/9 the rest is below 9^-8 / 17 = 1.4e-9 of the sum.
_ATANH_TERMS = 8
_SMALL = 1 / 3


def _atanh_series(t: View, emit: Emitter) -> View:
    """atanh(t) = t (1 + t^2/3 + t^4/5 + ...) for |t| <= 1/3, where a logarithm near 1 has no relative accuracy."""
    square = emit.binary("MUL", t, t)
    total = emit.binary("MUL", square, emit.scalar(1 / (2 * _ATANH_TERMS - 1), t))
    for term in range(_ATANH_TERMS - 2, 0, -1):
        total = emit.binary("MUL", emit.binary("ADD", total, emit.scalar(1 / (2 * term + 1), t)), square)
    return emit.binary("MUL", emit.binary("ADD", total, emit.scalar(1, t)), t)


def _chosen(condition: View, chosen: View, other: View, emit: Emitter) -> View:
    return emit.run("SELECT_V2", [condition, chosen, other], emit.like(chosen, chosen.layout, "chosen"), _SELECT)


def _root_of_one_less_square(x: View, emit: Emitter) -> View:
    """sqrt(1 - x^2) as sqrt((1 - x) (1 + x)), in which nothing cancels near 1."""
    one = emit.scalar(1, x)
    less = emit.binary("ADD", emit.unary("NEG", x), one)
    return emit.unary("SQRT", emit.binary("MUL", less, emit.binary("ADD", x, one)))


def _atan2(y: View, x: View, emit: Emitter) -> View:
    return emit.run("ATAN2", [y, x], emit.like(y, y.layout, "angle"), Options("ATan2Options"))


def _ones(x: View, emit: Emitter) -> View:
    """1 in the shape of ``x``, as max(min(x, 1), 1): ATAN2 does not broadcast, and a constant would be as large as ``x``."""
    return emit.binary("MAXIMUM", emit.binary("MINIMUM", x, emit.scalar(1, x)), emit.scalar(1, x))


def _acos(x: View, emit: Emitter) -> View:
    return _atan2(_root_of_one_less_square(x, emit), x, emit)


def _asin(x: View, emit: Emitter) -> View:
    return _atan2(x, _root_of_one_less_square(x, emit), emit)


def _atan(x: View, emit: Emitter) -> View:
    return _atan2(x, _ones(x, emit), emit)


def _tan(x: View, emit: Emitter) -> View:
    return emit.binary("DIV", emit.unary("SIN", x), emit.unary("COS", x))


def _half_power(x: View, emit: Emitter) -> tuple[View, View]:
    """e^(|x| / 2) / 2 and e^(|x| / 2): their product reaches as far as sinh and cosh do, where e^|x| is infinite already."""
    half = emit.unary("EXP", emit.binary("MUL", emit.unary("ABS", x), emit.scalar(0.5, x)))
    return emit.binary("MUL", half, emit.scalar(0.5, x)), half


def _cosh(x: View, emit: Emitter) -> View:
    """(e^|x| + e^-|x|) / 2."""
    quarter, half = _half_power(x, emit)
    decay = emit.unary("EXP", emit.unary("NEG", emit.unary("ABS", x)))
    return emit.binary("ADD", emit.binary("MUL", quarter, half), emit.binary("MUL", decay, emit.scalar(0.5, x)))


def _sinh(x: View, emit: Emitter) -> View:
    """sign(x) e^|x| (1 - e^-2|x|) / 2, the bracket as -d (d + 2) with d = e^-|x| - 1, which ELU gives in full."""
    quarter, half = _half_power(x, emit)
    d = emit.unary("ELU", emit.unary("NEG", emit.unary("ABS", x)))
    bracket = emit.binary("MUL", d, emit.binary("ADD", d, emit.scalar(2, x)))
    # quarter * half may overflow before the bracket is seen, where the product does too.
    magnitude = emit.binary("MUL", emit.binary("MUL", quarter, bracket), half)
    return emit.binary("MUL", magnitude, emit.unary("NEG", emit.unary("SIGN", x)))


# Below, asinh is a series in t = x / (1 + sqrt(1 + x^2)), which is 1/3 at x = 3/4.
_ASINH_SMALL = 0.75


def _asinh(x: View, emit: Emitter) -> View:
    """2 atanh(x / (1 + sqrt(1 + x^2))) for |x| < 3/4, else sign(x) (log |x| + log(1 + sqrt(1 + 1 / x^2)))."""
    magnitude, one = emit.unary("ABS", x), emit.scalar(1, x)
    near = emit.binary("MINIMUM", magnitude, emit.scalar(_ASINH_SMALL, x))
    root = emit.unary("SQRT", emit.binary("ADD", emit.binary("MUL", near, near), one))
    series = _atanh_series(emit.binary("DIV", near, emit.binary("ADD", root, one)), emit)
    small = emit.binary("ADD", series, series)
    large = _log_of_both(emit.binary("MAXIMUM", magnitude, emit.scalar(_ASINH_SMALL, x)), "ADD", emit)
    is_small = emit.truth("LESS", magnitude, emit.scalar(_ASINH_SMALL, x))
    return emit.binary("MUL", _chosen(is_small, small, large, emit), emit.unary("SIGN", x))


def _log_of_both(x: View, sign: str, emit: Emitter) -> View:
    """log(x + sqrt(x^2 + 1)) (sign ADD) or log(x + sqrt(x^2 - 1)) (sign SUB) of x > 0, without the square of x, which may overflow."""
    one = emit.scalar(1, x)
    inverse = emit.run("DIV", [one, x], emit.like(x, x.layout, "inverse"), _DIV)
    square = emit.binary("MUL", inverse, inverse)
    within = emit.binary("ADD", square if sign == "ADD" else emit.unary("NEG", square), one)
    both = emit.binary("ADD", emit.unary("SQRT", within), one)
    return emit.binary("ADD", emit.unary("LOG", x), emit.unary("LOG", both))


_DIV = Options("DivOptions", {"fusedActivationFunction": "NONE"})
# Below, acosh is a series in t = sqrt((x - 1) / (x + 1)), which is 1/3 at x = 5/4.
_ACOSH_SMALL = 1.25


def _acosh(x: View, emit: Emitter) -> View:
    """2 atanh(sqrt((x - 1) / (x + 1))) for x < 5/4, which is NaN below 1, else log(x + sqrt(x^2 - 1))."""
    one = emit.scalar(1, x)
    ratio = emit.binary("DIV", emit.binary("SUB", x, one), emit.binary("ADD", x, one))
    series = _atanh_series(emit.unary("SQRT", ratio), emit)
    small = emit.binary("ADD", series, series)
    large = _log_of_both(emit.binary("MAXIMUM", x, emit.scalar(_ACOSH_SMALL, x)), "SUB", emit)
    return _chosen(emit.truth("LESS", x, emit.scalar(_ACOSH_SMALL, x)), small, large, emit)


def _atanh(x: View, emit: Emitter) -> View:
    """A series for |x| < 1/3, else log((1 + x) / (1 - x)) / 2, which is infinite at 1 and NaN beyond."""
    one = emit.scalar(1, x)
    ratio = emit.binary("DIV", emit.binary("ADD", x, one), emit.binary("ADD", emit.unary("NEG", x), one))
    large = emit.binary("MUL", emit.unary("LOG", ratio), emit.scalar(0.5, x))
    is_small = emit.truth("LESS", emit.unary("ABS", x), emit.scalar(_SMALL, x))
    return _chosen(is_small, _atanh_series(x, emit), large, emit)


_FORMULAS: dict[str, Callable[[View, Emitter], View]] = {
    "Acos": _acos,
    "Acosh": _acosh,
    "Asin": _asin,
    "Asinh": _asinh,
    "Atan": _atan,
    "Atanh": _atanh,
    "Cosh": _cosh,
    "Sinh": _sinh,
    "Tan": _tan,
}


@lowers(*_FORMULAS)
def transcendental(operation: Operation, emit: Emitter) -> View:
    """ONNX Acos-7, Acosh-9, ..., Tan-7."""
    return _FORMULAS[operation.op_type](emit.take(operation.inputs[0]), emit)
