"""Control flow written out: an If is one of its branches, or both and a choice; a Loop or Scan of known length is its steps.

What is left in place has its bodies in canonical form (edgepack.hub.passes.bodies): a Loop that runs as often as its data says, and what
would be too long or could fail where it would not have been run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import attribute, constant
from edgepack.hub.passes.editing import Speller, Spelling, known_shape, respelled
from edgepack.hub.passes.folding import fold_constants
from edgepack.hub.passes.structure import embed_constants

if TYPE_CHECKING:
    import onnx_ir as ir

    Values = list[ir.Value | None]

OPERATORS = ("If", "Loop", "Scan")
# Nodes that one Loop or Scan may become: 10 MB of a .tflite file, a minute of conversion.
MOST_NODES = 20_000
# These may fail, or end the process in LiteRT, on what a branch that is not taken would have guarded: indices, integer division, reading
# beyond the end. What draws at random must not run more often than it does.
_GUARDED = frozenset(
    {"Gather", "GatherElements", "GatherND", "Scatter", "ScatterElements", "ScatterND", "TensorScatter", "Slice", "Div", "Mod", "Reshape"}
    | {"OneHot", "Expand", "Tile", "Range", "TopK", "NonMaxSuppression", "If", "Loop", "Scan", "ReverseSequence", "Compress"}
    | {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def write_out(model: ir.Model) -> bool:
    """All control flow whose extent is known, from the outside in."""
    from onnx_ir.passes.common import ShapeInferencePass

    changed = False
    while any(node.op_type in OPERATORS for node in model.graph):
        ShapeInferencePass()(model)
        if not respelled(model, _SPELLERS):
            break
        changed = True
        embed_constants(model)
        fold_constants(model)
    return changed


def _if(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX If-21. With a condition of run time both branches are computed and Where chooses, so both must be safe to run."""
    condition, branches = node.inputs[0], [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    held = constant(condition)
    if held is not None:
        return _owned(_inlined(branches[0 if held.item() else 1], [], spell), spell)
    if not all(map(_is_safe, branches)) or not _agree(node, branches):
        return None
    chosen, other = (_inlined(branch, [], spell) for branch in branches)
    flag = spell("Reshape", condition, spell.integers())
    return [spell("Where", flag, first, second) for first, second in zip(chosen, other, strict=True)]


def _agree(node: ir.Node, branches: Sequence[ir.Graph]) -> bool:
    """Whether both branches give tensors of the same known shapes."""
    for position, result in enumerate(node.outputs):
        shape = known_shape(result)
        others = [branch.outputs[position].shape for branch in branches]
        if shape is None or any(other is not None and tuple(other) != shape for other in others):
            return False
    return True


def _is_safe(graph: ir.Graph) -> bool:
    return not any(node.op_type in _GUARDED and not _is_settled(node) for node in graph)


def _is_settled(node: ir.Node) -> bool:
    """Whether all that an operator could fail on is constant; real division never fails."""
    parameters = [value for value in node.inputs[1:] if value is not None]
    if node.op_type == "Div" and node.inputs[0] is not None and node.inputs[0].dtype is not None:
        return node.inputs[0].dtype.is_floating_point() or constant(node.inputs[1]) is not None
    is_open = node.op_type in OPERATORS or node.op_type.startswith(("Random", "Bernoulli", "Multinomial", "NonMax", "Compress"))
    return not is_open and bool(parameters) and all(_constant_in_body(value) is not None for value in parameters)


def _constant_in_body(value: ir.Value) -> np.ndarray | None:
    """A constant's numbers, also where it is a Constant node of a body."""
    producer, held = value.producer(), constant(value)
    if held is None and producer is not None and producer.op_type == "Constant" and "value" in producer.attributes:
        return np.asarray(producer.attributes["value"].as_tensor().numpy())
    return held


def _loop(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX Loop-21 of a known number of rounds. One that may end before keeps its states by Where once its condition has failed."""
    body, trips, condition = node.attributes["body"].as_graph(), constant(node.inputs[0]), node.inputs[1]
    states = list(node.inputs[2:])
    scans = len(node.outputs) - len(states)
    if trips is None or not _fits(int(trips.item()), body):
        return None
    may_end = (condition is not None and constant(condition) is None) or not never_ends(body)
    if may_end and (scans or not _is_safe(body)):
        return None
    held = constant(condition)
    runs = 0 if held is not None and not held.all() else int(trips.item())
    if runs <= 0 and scans:
        return None
    active = spell("Reshape", condition, spell.integers()) if may_end and condition is not None else None
    rows: list[list[ir.Value]] = [[] for _ in range(scans)]
    for step in range(runs):
        given = [spell.constant(step, np.int64), spell.constant(True, np.bool_), *states]
        goes_on, *results = _inlined(body, given, spell)
        for row, result in zip(rows, results[len(states) :], strict=True):
            row.append(result)
        news = results[: len(states)]
        states = [new if active is None else spell("Where", active, new, old) for new, old in zip(news, states, strict=True)]
        if may_end:
            still = spell("Reshape", goes_on, spell.integers())
            active = still if active is None else spell("And", active, still)
    return _owned([*states, *(_stacked(row, 0, spell) for row in rows)], spell)


def never_ends(body: ir.Graph) -> bool:
    """Whether a body's condition is true whenever it was."""
    value = body.outputs[0]
    while (producer := value.producer()) is not None and producer.op_type == "Identity" and producer.inputs[0] is not None:
        value = producer.inputs[0]
    held = _constant_in_body(value)
    return value is body.inputs[1] or (held is not None and bool(held.all()))


def _scan(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX Scan-21 (the form of opset 9 on: no batch axis, no lengths) over sequences of a known length."""
    body, count = node.attributes["body"].as_graph(), attribute(node, "num_scan_inputs", 0)
    states, sequences = list(node.inputs[: len(node.inputs) - count]), node.inputs[len(node.inputs) - count :]
    axes = attribute(node, "scan_input_axes") or [0] * count
    backwards = attribute(node, "scan_input_directions") or [0] * count
    shapes = [known_shape(sequence) for sequence in sequences]
    steps = shapes[0][axes[0]] if shapes and shapes[0] is not None else 0
    if not steps or any(shape is None or shape[axis] != steps for shape, axis in zip(shapes, axes, strict=True)) or not _fits(steps, body):
        return None
    rows: list[list[ir.Value]] = [[] for _ in range(len(node.outputs) - len(states))]
    for step in range(steps):
        places = [spell.constant(steps - 1 - step if is_back else step, np.int64) for is_back in backwards]
        parts = [spell("Gather", held, place, axis=axis) for held, place, axis in zip(sequences, places, axes, strict=True)]
        results = _inlined(body, [*states, *parts], spell)
        states = list(results[: len(states)])
        for row, result in zip(rows, results[len(states) :], strict=True):
            row.append(result)
    axes_out = attribute(node, "scan_output_axes") or [0] * len(rows)
    turned = attribute(node, "scan_output_directions") or [0] * len(rows)
    ordered = [row[::-1] if is_back else row for row, is_back in zip(rows, turned, strict=True)]
    return _owned([*states, *(_stacked(row, axis, spell) for row, axis in zip(ordered, axes_out, strict=True))], spell)


def _fits(steps: int, body: ir.Graph) -> bool:
    return steps * len(body) <= MOST_NODES


def _stacked(rows: Sequence[ir.Value], axis: int, spell: Spelling) -> ir.Value:
    """The results of every step along a new axis."""
    spread = [spell("Unsqueeze", row, spell.integers(axis)) for row in rows]
    return spread[0] if len(spread) == 1 else spell("Concat", *spread, axis=axis)


def _inlined(graph: ir.Graph, arguments: Sequence[ir.Value | None], spell: Spelling) -> list[ir.Value]:
    """The nodes of a body for these arguments, its results; values of the outer graph that it reads are read as they are."""
    import onnx_ir as ir

    copy = graph.clone(allow_outer_scope_values=True)
    results, inputs, nodes = list(copy.outputs), list(copy.inputs), list(copy)
    constants = dict(copy.initializers)
    copy.outputs.clear()
    copy.remove(nodes)
    new: dict[ir.Value, ir.Value | None] = dict(zip(inputs, arguments, strict=True))
    for value in constants.values():
        assert value.const_value is not None
        held = value.const_value.numpy()
        new[value] = spell.constant(held, held.dtype)
    for old, argument in new.items():
        if argument is not None:
            ir.convenience.replace_all_uses_with(old, argument)
    spell.adopt(nodes)
    found = [new.get(result, result) for result in results]
    return [value for value in found if value is not None]


def _owned(values: Sequence[ir.Value | None], spell: Spelling) -> Values:
    """Results that are values of their own: one that is there already, or that is given twice, as an Identity."""
    made = {output for node in spell.nodes for output in node.outputs}
    owned: Values = []
    for value in values:
        owned.append(value if value in made and value not in owned else spell("Identity", value))
    return owned


_SPELLERS: dict[str, Speller] = {"If": _if, "Loop": _loop, "Scan": _scan}
