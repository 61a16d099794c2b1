"""Axes, sizes and counts that come in at run time, where the declared shapes leave them no choice.

A model may take the axes of a reduction as an input, and declare what shapes go in and come out. Where every value that gives that output
shape also gives the same numbers, the value is written down; where two values fit the shapes and differ in what they compute (a Pad before
or after, a scale of 2.0 or 2.1, a sum over either of two equal axes), nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations
from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import attribute, constant
from edgepack.hub.passes.editing import Speller, Spelling, initializer, known_shape, respelled, run_passes

if TYPE_CHECKING:
    import onnx_ir as ir

Shape = tuple[int, ...]
# Answers what an input must hold, from the node, the data's shape and the first output's; None where that is open.
Deduction = Callable[["ir.Node", Shape, Shape], "Sequence[int] | int | None"]


def resolve(model: ir.Model) -> bool:
    """Write down what the declared shapes say of inputs of run time."""
    from onnx_ir.passes import common

    nodes = [node for node in model.graph if _is_open(node)]
    if not nodes:
        return False
    run_passes(model, common.ShapeInferencePass())
    _carry_back(model)
    changed = [_settle(model.graph, node) for node in nodes if node.op_type in _SETTLED]
    return respelled(model, _RESPELLED) or any(changed)


def _is_open(node: ir.Node) -> bool:
    positions = (1, 2) if node.op_type == "Slice" else (_SETTLED[node.op_type][0],) if node.op_type in _SETTLED else (1,)
    return node.op_type in {*_SETTLED, *_RESPELLED} and any(_comes_in(node, position) for position in positions)


def _comes_in(node: ir.Node, position: int) -> bool:
    """Whether an input is there and not known."""
    value = node.inputs[position] if position < len(node.inputs) else None
    return value is not None and constant(value) is None


# What gives one number for each that it reads: shapes go through it both ways.
_ELEMENTWISE = frozenset({"Abs", "Cast", "CastLike", "Exp", "Identity", "Log", "Neg", "Reciprocal", "Relu", "Sigmoid", "Sqrt", "Tanh"})


def _carry_back(model: ir.Model) -> None:
    for node in reversed(list(model.graph)):
        source = node.inputs[0] if node.inputs else None
        if node.op_type in _ELEMENTWISE and source is not None and known_shape(source) is None and node.outputs[0].shape is not None:
            source.shape = node.outputs[0].shape


def _settle(graph: ir.Graph, node: ir.Node) -> bool:
    position, deduce = _SETTLED[node.op_type]
    before, after = known_shape(node.inputs[0]), known_shape(node.outputs[0])
    value = None if before is None or after is None else deduce(node, before, after)
    if value is None:
        return False
    node.replace_input_with(position, initializer(graph, f"{node.name}/declared", np.asarray(value, np.int64)))
    return True


def _reduced_axes(node: ir.Node, before: Shape, after: Shape) -> Sequence[int] | None:
    """The axes of a reduction; those of size 1 change nothing, so that two choices that differ in them alone are one."""
    keeps, may_be_none = attribute(node, "keepdims", 1), bool(attribute(node, "noop_with_empty_axes", 0))
    rank = len(before)
    options = [axes for axes in chain.from_iterable(combinations(range(rank), count) for count in range(rank + 1)) if axes or may_be_none]
    fitting = [axes for axes in options if _without(before, axes, bool(keeps)) == after]
    telling = {tuple(axis for axis in axes if before[axis] != 1) for axes in fitting}
    return fitting[0] if len(telling) == 1 else None


def _without(shape: Shape, axes: Sequence[int], keeps: bool) -> Shape:
    sizes = ((axis, 1 if axis in axes else size) for axis, size in enumerate(shape))
    return tuple(size for axis, size in sizes if keeps or axis not in axes)


def _parts(node: ir.Node, before: Shape, after: Shape) -> Sequence[int] | None:
    axis = attribute(node, "axis", 0)
    shapes = [known_shape(value) for value in node.outputs]
    return None if None in shapes else [shape[axis] for shape in shapes if shape is not None]


def _repeats(node: ir.Node, before: Shape, after: Shape) -> Sequence[int] | None:
    return None if 0 in before else [large // small for large, small in zip(after, before, strict=True)]


def _sizes(node: ir.Node, before: Shape, after: Shape) -> Sequence[int] | None:
    """Target sizes of a Resize; where it keeps the aspect ratio the output says less than they do."""
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    return [after[axis] for axis in attribute(node, "axes") or range(len(after))]


def _chosen(node: ir.Node, before: Shape, after: Shape) -> Sequence[int]:
    return [after[axis] for axis in attribute(node, "axes") or range(len(after))]


def _grid(node: ir.Node, before: Shape, after: Shape) -> Sequence[int]:
    """The size that AffineGrid samples for, whose channels mean nothing."""
    return [after[0], 1, *after[1:-1]]


# Operator -> the input that comes in at run time, and what the shapes say of it.
_SETTLED: dict[str, tuple[int, Deduction]] = {
    **{
        f"Reduce{name}": (1, _reduced_axes)
        for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
    "Split": (1, _parts),
    "Expand": (1, lambda node, before, after: after),
    "Tile": (1, _repeats),
    "TopK": (1, lambda node, before, after: [after[attribute(node, "axis", -1)]]),
    "OneHot": (1, lambda node, before, after: after[attribute(node, "axis", -1)]),
    "Resize": (3, _sizes),
    "CenterCropPad": (1, _chosen),
    "AffineGrid": (1, _grid),
    "MaxUnpool": (2, lambda node, before, after: after),
}


def _as_reshape(node: ir.Node, spell: Spelling) -> list[ir.Value | None] | None:
    """Squeeze and Unsqueeze move nothing: whatever the axes are, the output's shape says all."""
    shape, axes = known_shape(node.outputs[0]), node.inputs[1] if len(node.inputs) > 1 else None
    if shape is None or 0 in shape or axes is None or constant(axes) is not None:
        return None
    return [spell("Reshape", node.inputs[0], spell.integers(*shape))]


def _as_gathers(node: ir.Node, spell: Spelling) -> list[ir.Value | None] | None:
    """A Slice of steps of 1 that begins where a run says and is as long as declared: so many elements from there on, an axis each."""
    x, starts, before, after = node.inputs[0], node.inputs[1], known_shape(node.inputs[0]), known_shape(node.outputs[0])
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 else None
    if x is None or starts is None or before is None or after is None or 0 in after or not _is_open(node):
        return None
    if _comes_in(node, 3) or _comes_in(node, 4) or (steps is not None and (steps != 1).any()):
        return None
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    given = spell("Cast", starts, to=_INT64)
    for place, axis in enumerate(range(len(before)) if axes is None else axes.tolist()):
        size, count = before[axis], after[axis]
        if size != count:
            start = spell("Gather", given, spell.integers(place), axis=0)
            from_zero = spell("Where", spell("Less", start, spell.integers(0)), spell("Add", start, spell.integers(size)), start)
            # Nothing beyond: a start that gives the declared length lies within, once cut to the axis as Slice cuts it.
            begin = spell("Min", spell("Max", from_zero, spell.integers(0)), spell.integers(size - count))
            x = spell("Gather", x, spell("Add", begin, spell.integers(*range(count))), axis=axis)
    return [x if x is not node.inputs[0] else spell("Identity", x)]


_INT64 = 7
_RESPELLED: dict[str, Speller] = {"Squeeze": _as_reshape, "Unsqueeze": _as_reshape, "Slice": _as_gathers}
