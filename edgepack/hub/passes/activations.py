"""Activations that a graph spells out and that both phones' formats have as one operator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgepack.hub.graph import constant
from edgepack.hub.passes.editing import Speller, Spelling

if TYPE_CHECKING:
    import onnx_ir as ir

    Values = list[ir.Value | None]

# Exporters write the constants of these formulas as float32, or with a few digits less (0.7978845608).
_SAME = 1e-6
# Hendrycks and Gimpel, Gaussian Error Linear Units, section 2.
_CUBIC, _TANH_SCALE = 0.044715, math.sqrt(2 / math.pi)
_CUBE = 3


def gelu(node: ir.Node, spell: Spelling) -> Values | None:
    """0.5 * x * (1 + erf(x / sqrt 2)), in any order of the products, as Gelu-20; with tanh instead, as its approximate form."""
    scale, factors = _factors(node.outputs[0])
    if len(factors) != 2 or not _is(scale, 0.5):
        return None
    for x, other in (factors, factors[::-1]):
        kind = _kind(x, _plus_one(other))
        if kind:
            return [spell("Gelu", x, approximate=kind)]
    return None


def _kind(x: ir.Value, inner: ir.Value | None) -> str:
    """ "none" for erf(x / sqrt 2), "tanh" for tanh(sqrt(2 / pi) (x + 0.044715 x^3)), "" for anything else."""
    maker = None if inner is None else inner.producer()
    if maker is None or maker.op_type not in ("Erf", "Tanh") or maker.inputs[0] is None:
        return ""
    scale, factors = _factors(maker.inputs[0])
    if len(factors) != 1:
        return ""
    if maker.op_type == "Erf":
        return "none" if factors[0] is x and _is(scale, math.sqrt(0.5)) else ""
    return "tanh" if _is(scale, _TANH_SCALE) and _is_cubic(factors[0], x) else ""


def _is_cubic(value: ir.Value, x: ir.Value) -> bool:
    """x + 0.044715 x^3, or x (1 + 0.044715 x^2)."""
    terms = _terms(value)
    if terms is None:
        return False
    rest = [term for term in terms if term is not x]
    if len(rest) != 1:
        return False
    scale, factors = _factors(rest[0])
    return _is(scale, _CUBIC) and factors == [x] * _CUBE


def _terms(value: ir.Value) -> list[ir.Value] | None:
    maker = value.producer()
    terms = None if maker is None or maker.op_type != "Add" else [term for term in maker.inputs if term is not None]
    return terms if terms is not None and len(terms) == 2 else None


def _plus_one(value: ir.Value) -> ir.Value | None:
    """What 1 is added to."""
    terms = _terms(value) or []
    numbers = [_number(term) for term in terms]
    return next((other for number, other in zip(numbers, terms[::-1], strict=True) if number == 1), None)


def _factors(value: ir.Value) -> tuple[float, list[ir.Value]]:
    """A product as one number and the values multiplied, through Mul, Div by a number and whole powers that nothing else reads."""
    scale, factors = 1.0, []
    for factor in _walk(value, is_whole=True):
        if isinstance(factor, float):
            scale *= factor
        else:
            factors.append(factor)
    return scale, factors


def _walk(value: ir.Value, is_whole: bool = False) -> Iterator[ir.Value | float]:
    number, maker = _number(value), value.producer()
    if number is not None:
        yield number
        return
    is_inner = is_whole or (len(value.uses()) == 1 and not value.is_graph_output())
    left, right = (maker.inputs[0], maker.inputs[1]) if maker is not None and len(maker.inputs) == 2 else (None, None)
    by = None if right is None else _number(right)
    if maker is None or left is None or right is None or not is_inner:
        yield value
    elif maker.op_type == "Mul":
        yield from _walk(left)
        yield from _walk(right)
    elif maker.op_type == "Div" and by:
        yield from _walk(left)
        yield 1 / by
    elif maker.op_type == "Pow" and by is not None and by in (2, _CUBE):
        for _ in range(int(by)):
            yield left
    else:
        yield value


def _number(value: ir.Value) -> float | None:
    held = constant(value)
    return float(held.item()) if held is not None and held.size == 1 and held.ndim <= 1 and held.dtype.kind == "f" else None


def _is(number: float, wanted: float) -> bool:
    return math.isclose(number, wanted, rel_tol=_SAME)


SPELLERS: dict[str, Speller] = {"Mul": gelu}
