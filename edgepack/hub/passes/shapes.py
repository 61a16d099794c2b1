"""Rewrites of shape operators: static targets, pads that crop or wrap, transposes of many axes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import HubError, attribute, constant, label
from edgepack.hub.passes.editing import Speller, Spelling, initializer, is_read, known_shape, set_attributes

if TYPE_CHECKING:
    import onnx_ir as ir

    Values = list[ir.Value | None]


def static_reshapes(model: ir.Model) -> bool:
    """A Reshape whose result is known carries it: sizes, with -1 for the one symbolic dimension; no zeros, no allowzero."""
    changed = [_static_reshape(model.graph, node) for node in list(model.graph) if node.op_type == "Reshape"]
    return any(changed)


def _static_reshape(graph: ir.Graph, node: ir.Node) -> bool:
    shape, held = node.outputs[0].shape, constant(node.inputs[1])
    if (
        shape is None
        or (unknown := sum(not isinstance(size, int) for size in shape)) > 1
        or 0 in [size for size in shape if isinstance(size, int)]
    ):
        return False
    target = np.asarray([size if isinstance(size, int) else -1 for size in shape], np.int64)
    if unknown == 0 and len(target) and held is not None and np.array_equal(held, target) and not attribute(node, "allowzero", 0):
        return False
    if unknown and (held is None or np.array_equal(held, target)) and not attribute(node, "allowzero", 0):
        return False
    node.replace_input_with(1, initializer(graph, f"{node.outputs[0].name}/shape", target))
    set_attributes(node, {"allowzero": None})
    return True


def plain_pad(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX Pad-21 with constant amounts: a negative amount is a Slice, mode wrap a Gather for each axis (numpy.pad, mode wrap)."""
    amounts = _amounts(node)
    if amounts is None:
        return None
    if attribute(node, "mode", "constant") == "wrap":
        return _wrapped(node, amounts, spell)
    if all(amount >= 0 for pair in amounts.values() for amount in pair):
        return None
    if attribute(node, "mode", "constant") != "constant":
        raise HubError(f"{label(node)} crops (a negative amount) in mode {attribute(node, 'mode')}", "slice, then pad in the student")
    cropped = _cropped(node.inputs[0], amounts, spell)
    begins, ends = [max(begin, 0) for begin, _ in amounts.values()], [max(end, 0) for _, end in amounts.values()]
    if not any((*begins, *ends)):
        return [cropped]
    value = node.inputs[2] if len(node.inputs) > 2 else None
    return [spell("Pad", cropped, spell.integers(*begins, *ends), value, spell.integers(*amounts), mode="constant")]


def _amounts(node: ir.Node) -> dict[int, tuple[int, int]] | None:
    """Axis -> amounts before and after, None when they are computed at run time."""
    source, pads = node.inputs[0], constant(node.inputs[1])
    given = node.inputs[3] if len(node.inputs) > 3 else None
    axes = constant(given)
    if source is None or source.shape is None or pads is None or (given is not None and axes is None):
        return None
    rank = len(source.shape)
    chosen = list(range(rank)) if axes is None else [int(axis) % rank for axis in axes]
    begins, ends = pads.reshape(2, -1).tolist()
    return {axis: (begin, end) for axis, begin, end in zip(chosen, begins, ends, strict=True)}


def _cropped(x: ir.Value | None, amounts: dict[int, tuple[int, int]], spell: Spelling) -> ir.Value:
    """Negative amounts as one Slice; an end of -n counts from the end, and no crop there is the largest number."""
    cut = {axis: pair for axis, pair in amounts.items() if min(pair) < 0}
    starts = [max(-begin, 0) for begin, _ in cut.values()]
    stops = [end if end < 0 else np.iinfo(np.int64).max for _, end in cut.values()]
    return spell("Slice", x, spell.integers(*starts), spell.integers(*stops), spell.integers(*cut))


def _wrapped(node: ir.Node, amounts: dict[int, tuple[int, int]], spell: Spelling) -> Values | None:
    value, padded = node.inputs[0], {axis: pair for axis, pair in amounts.items() if any(pair)}
    sizes = {axis: size for axis, size in enumerate(value.shape or ()) if isinstance(size, int)} if value is not None else {}
    if value is None or not padded or not set(padded) <= set(sizes):
        return None
    if any(amount < 0 for pair in padded.values() for amount in pair):
        raise HubError(f"{label(node)} crops (a negative amount) in mode wrap", "slice, then pad in the student")
    for axis, (begin, end) in padded.items():
        value = spell("Gather", value, spell.integers(*(np.arange(-begin, sizes[axis] + end) % sizes[axis])), axis=axis)
    return [value]


# Core ML stops at rank 5, and every format is faster on fewer axes.
_MANY_AXES = 5


def transposes_of_few_axes(model: ir.Model) -> bool:
    """Reshape, Transpose, Reshape over more than five axes (depth to space and back, window partitions) with fewer axes.

    Axes of size 1 are dropped, and axes that stay neighbours are one axis: the same elements in the same order.
    """
    found = [node for node in model.graph if node.op_type == "Transpose" and _can_be_shorter(node)]
    for node in found:
        _shorten(model.graph, node)
    return bool(found)


def _can_be_shorter(node: ir.Node) -> bool:
    source, shape = node.inputs[0], known_shape(node.inputs[0])
    before = source.producer() if source is not None else None
    if source is None or shape is None or before is None or len(shape) <= _MANY_AXES or before.op_type != "Reshape":
        return False
    result, uses = node.outputs[0], node.outputs[0].uses()
    alone = len(source.uses()) == 1 and not source.is_graph_output() and not result.is_graph_output()
    groups = _groups(shape, attribute(node, "perm") or list(reversed(range(len(shape)))))
    return alone and len(groups) < len(shape) and bool(uses) and all(use.node.op_type == "Reshape" and use.idx == 0 for use in uses)


def _groups(shape: Sequence[int], perm: Sequence[int]) -> list[list[int]]:
    """The input axes of a transpose in the output's order, neighbours together; axes of size 1 are left out."""
    groups: list[list[int]] = []
    skipped = {axis for axis, size in enumerate(shape) if size == 1}
    for axis in (axis for axis in perm if axis not in skipped):
        follows = groups and set(range(groups[-1][-1] + 1, axis)) <= skipped and axis > groups[-1][-1]
        groups[-1].append(axis) if follows else groups.append([axis])
    return groups or [[0]]


def _shorten(graph: ir.Graph, node: ir.Node) -> None:
    """Both Reshapes and the Transpose stand for the fewer axes; the reading Reshapes keep their targets, which are static by now."""
    import onnx_ir as ir

    source, shape = node.inputs[0], known_shape(node.inputs[0])
    assert source is not None and shape is not None
    groups = _groups(shape, attribute(node, "perm") or list(reversed(range(len(shape)))))
    order = sorted(groups)
    sizes = [prod(shape[axis] for axis in group) for group in order]
    perm = [order.index(group) for group in groups]
    before = source.producer()
    assert before is not None
    before.replace_input_with(1, initializer(graph, f"{source.name}/fewer", np.asarray(sizes, np.int64)))
    set_attributes(before, {"allowzero": None})
    set_attributes(node, {"perm": perm})
    source.shape, node.outputs[0].shape = ir.Shape(sizes), ir.Shape([sizes[axis] for axis in perm])


def without_empty_parts(node: ir.Node, spell: Spelling) -> Values | None:
    """Concat of what holds elements: parts of no size (the unrotated rest of a rotary embedding) are left out."""
    shapes = [known_shape(value) for value in node.inputs]
    kept = [value for value, shape in zip(node.inputs, shapes, strict=True) if shape is None or 0 not in shape]
    if len(kept) == len(shapes) or not kept:
        return None
    return [spell("Concat", *kept, axis=attribute(node, "axis")) if len(kept) > 1 else spell("Identity", kept[0])]


def whole_part(node: ir.Node, spell: Spelling) -> Values | None:
    """Split into one part that holds everything and parts of no size that nothing reads: the part is the input."""
    shapes = [known_shape(value) for value in node.outputs]
    held = [shape is None or 0 not in shape for shape in shapes]
    if sum(held) != 1 or len(held) == 1 or any(is_read(value) and not kept for value, kept in zip(node.outputs, held, strict=True)):
        return None
    return [spell("Identity", node.inputs[0]) if kept else None for kept in held]


def reshaped_to_known(node: ir.Node, spell: Spelling) -> Values | None:
    """Squeeze or Unsqueeze along axes of run time to a shape that is declared: the same elements in that shape."""
    shape, axes = known_shape(node.outputs[0]), node.inputs[1] if len(node.inputs) > 1 else None
    if axes is None or constant(axes) is not None or shape is None or 0 in shape:
        return None
    return [spell("Reshape", node.inputs[0], spell.integers(*shape))]


def expanded_to_known(node: ir.Node, spell: Spelling) -> Values | None:
    """Expand by a shape of run time to one that is declared, which is what it can be (ONNX Expand-13)."""
    shape = known_shape(node.outputs[0])
    if constant(node.inputs[1]) is not None or shape is None:
        return None
    return [spell("Expand", node.inputs[0], spell.integers(*shape))]


def tiled_to_known(node: ir.Node, spell: Spelling) -> Values | None:
    """Tile as often as the declared shape tells, where no axis is empty."""
    before, after = known_shape(node.inputs[0]), known_shape(node.outputs[0])
    if constant(node.inputs[1]) is not None or before is None or after is None or 0 in before:
        return None
    return [spell("Tile", node.inputs[0], spell.integers(*(new // old for old, new in zip(before, after, strict=True))))]


PADS: dict[str, Speller] = {"Pad": plain_pad}
DECLARED: dict[str, Speller] = {
    "Concat": without_empty_parts,
    "Squeeze": reshaped_to_known,
    "Unsqueeze": reshaped_to_known,
    "Expand": expanded_to_known,
    "Tile": tiled_to_known,
}
# After those, which may have read the empty parts.
PARTS: dict[str, Speller] = {"Split": whole_part}
