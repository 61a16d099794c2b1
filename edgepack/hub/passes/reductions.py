"""Composite reductions in terms of ReduceSum and ReduceMax, which every format has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import attribute, constant, dtype_name
from edgepack.hub.passes.editing import Speller, Spelling

if TYPE_CHECKING:
    import onnx_ir as ir

    Values = list[ir.Value | None]

# Source of all: ONNX Reduce*-18. An empty set of axes reduces everything, or with noop_with_empty_axes nothing: the steps before and
# after the reduction are still taken, and the plain reduction they are spelled with has the same attribute.


def _reduced(operator: str, x: ir.Value, node: ir.Node, spell: Spelling, keepdims: int | None = None) -> ir.Value:
    """A plain reduction with the axes, keepdims and noop_with_empty_axes of ``node``."""
    keep = attribute(node, "keepdims", 1) if keepdims is None else keepdims
    return spell(operator, x, *node.inputs[1:2], keepdims=keep, noop_with_empty_axes=attribute(node, "noop_with_empty_axes", 0))


def _data(node: ir.Node) -> ir.Value:
    source = node.inputs[0]
    assert source is not None
    return source


def reduce_l1(node: ir.Node, spell: Spelling) -> Values:
    """Sum of absolute values."""
    return [_reduced("ReduceSum", spell("Abs", _data(node)), node, spell)]


def reduce_sum_square(node: ir.Node, spell: Spelling) -> Values:
    """Sum of squares."""
    return [_reduced("ReduceSum", spell("Mul", _data(node), _data(node)), node, spell)]


def reduce_l2(node: ir.Node, spell: Spelling) -> Values | None:
    """Root of the sum of squares."""
    return [spell("Sqrt", *_real(reduce_sum_square(node, spell)))] if _is_real(node) else None


def reduce_log_sum(node: ir.Node, spell: Spelling) -> Values | None:
    """Logarithm of the sum."""
    return [spell("Log", _reduced("ReduceSum", _data(node), node, spell))] if _is_real(node) else None


def reduce_log_sum_exp(node: ir.Node, spell: Spelling) -> Values | None:
    """max + log(sum(exp(x - max))), the stable form. The maximum is cut to finite numbers, so that infinities stay what they are."""
    if not _is_real(node):
        return None
    x, dtype = _data(node), np.dtype(dtype_name(_data(node)))
    limits = [spell.constant(limit, dtype) for limit in (np.finfo(dtype).min, np.finfo(dtype).max)]
    most = spell("Clip", _reduced("ReduceMax", x, node, spell, keepdims=1), *limits)
    total = _reduced("ReduceSum", spell("Exp", spell("Sub", x, most)), node, spell)
    return [spell("Add", spell("Log", total), _without_axes(most, node, spell))]


def _without_axes(kept: ir.Value, node: ir.Node, spell: Spelling) -> ir.Value:
    """A result that kept its reduced axes, in the shape the node gives."""
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    held = constant(axes)
    is_empty = axes is None or (held is not None and held.size == 0)
    if attribute(node, "keepdims", 1) or (is_empty and attribute(node, "noop_with_empty_axes", 0)):
        return kept
    return spell("Squeeze", kept) if is_empty else spell("Squeeze", kept, axes)


def reduce_extreme_of_bool(node: ir.Node, spell: Spelling) -> Values | None:
    """Any or all of booleans, as the maximum or minimum of 0 and 1."""
    import onnx_ir as ir

    if _data(node).dtype != ir.DataType.BOOL:
        return None
    number = spell("Cast", _data(node), to=ir.DataType.INT32)
    return [spell("Cast", _reduced(node.op_type, number, node, spell), to=ir.DataType.BOOL)]


def reduce_nothing(node: ir.Node, spell: Spelling) -> Values | None:
    """No axes, and an attribute that says that none are reduced."""
    return [spell("Identity", _data(node))] if _keeps_all(node) else None


def _keeps_all(node: ir.Node) -> bool:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    is_given = len(node.inputs) > 1 and node.inputs[1] is not None
    return bool(attribute(node, "noop_with_empty_axes", 0)) and (not is_given or (axes is not None and axes.size == 0))


def reduce_extreme(node: ir.Node, spell: Spelling) -> Values | None:
    """Extremes of nothing, or of booleans."""
    return reduce_nothing(node, spell) or reduce_extreme_of_bool(node, spell)


def _over_known_axes(speller: Speller) -> Speller:
    """Axes computed at run time leave shapes open: such a node stays, for a backend to take or to refuse by its name."""

    def spelled(node: ir.Node, spell: Spelling) -> Sequence[ir.Value | None] | None:
        axes = node.inputs[1] if len(node.inputs) > 1 else None
        return speller(node, spell) if axes is None or constant(axes) is not None else None

    return spelled


def _real(values: Values) -> list[ir.Value]:
    return [value for value in values if value is not None]


def _is_real(node: ir.Node) -> bool:
    source = node.inputs[0]
    return source is not None and source.dtype is not None and source.dtype.is_floating_point()


_FORMS: dict[str, Speller] = {
    "ReduceL1": reduce_l1,
    "ReduceL2": reduce_l2,
    "ReduceSumSquare": reduce_sum_square,
    "ReduceLogSum": reduce_log_sum,
    "ReduceLogSumExp": reduce_log_sum_exp,
    "ReduceMax": reduce_extreme,
    "ReduceMin": reduce_extreme,
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceProd"), reduce_nothing),
}
SPELLERS: dict[str, Speller] = {operator: _over_known_axes(form) for operator, form in _FORMS.items()}
