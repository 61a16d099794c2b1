"""Operators whose rarer forms are said with others: bounds computed at run time, one or many operands, vectors, last indices."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import attribute, constant, dtype_name
from edgepack.hub.passes.editing import Speller, Spelling

if TYPE_CHECKING:
    import onnx_ir as ir

    Values = list[ir.Value | None]


def clip(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX Clip-13, min(max(x, low), high), when a bound is computed at run time."""
    low, high = [*node.inputs[1:], None, None][:2]
    if all(bound is None or constant(bound) is not None for bound in (low, high)):
        return None
    above = node.inputs[0] if low is None else spell("Max", node.inputs[0], low)
    return [above if high is None else spell("Min", above, high)]


def extreme(node: ir.Node, spell: Spelling) -> Values | None:
    """Max or Min of one operand is that operand."""
    return [spell("Identity", node.inputs[0])] if len(node.inputs) == 1 else None


def total(node: ir.Node, spell: Spelling) -> Values:
    """ONNX Sum-13 of any number of operands, as a chain of Add."""
    first, *others = node.inputs
    assert first is not None
    return [reduce(lambda left, right: spell("Add", left, right), others, first) if others else spell("Identity", first)]


def mean(node: ir.Node, spell: Spelling) -> Values:
    """ONNX Mean-13 over operands."""
    first = node.inputs[0]
    assert first is not None
    return [spell("Div", *total(node, spell), spell.constant(len(node.inputs), dtype_name(first)))]


def last_index(node: ir.Node, spell: Spelling) -> Values | None:
    """ArgMax or ArgMin with select_last_index: size - 1 - the first index of the reversed axis (ONNX ArgMax-13)."""
    x, axis = node.inputs[0], attribute(node, "axis", 0)
    if not attribute(node, "select_last_index", 0) or x is None or x.shape is None or not isinstance(x.shape[axis], int):
        return None
    size = int(x.shape[axis])
    backwards = spell("Gather", x, spell.integers(*reversed(range(size))), axis=axis)
    first = spell(node.op_type, backwards, axis=axis, keepdims=attribute(node, "keepdims", 1))
    return [spell("Sub", spell.constant(size - 1, np.int64), first)]


def matmul_of_vector(node: ir.Node, spell: Spelling) -> Values | None:
    """MatMul with an operand of rank 1, which counts as one row (left) or one column (right) (numpy.matmul)."""
    left, right = node.inputs
    if left is None or right is None or left.shape is None or right.shape is None:
        return None
    is_row, is_column = len(left.shape) == 1, len(right.shape) == 1
    if not is_row and not is_column:
        return None
    rows = spell("Unsqueeze", left, spell.integers(0)) if is_row else left
    columns = spell("Unsqueeze", right, spell.integers(1)) if is_column else right
    single = [axis for axis, is_single in ((-2, is_row), (-1, is_column)) if is_single]
    return [spell("Squeeze", spell("MatMul", rows, columns), spell.integers(*single))]


SPELLERS: dict[str, Speller] = {
    "Clip": clip,
    "Max": extreme,
    "Min": extreme,
    "Sum": total,
    "Mean": mean,
    "ArgMax": last_index,
    "ArgMin": last_index,
    "MatMul": matmul_of_vector,
}
