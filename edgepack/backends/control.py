"""Control flow that stays (edgepack.hub.passes.bodies) as formats with nested graphs have it: bodies that read only what they are given.

Loop and Scan become ``While``: two graphs, "condition" and "body", over the same inputs. First what is carried: the number of the round,
whether to go on, the states, and for each row that is collected a tensor with a place for every round. Then, as many as the attribute
"invariants" says, what stays as it is. The condition gives one truth value, the body the next values of what is carried. If becomes
``Choice``: the graphs "then_branch" and "else_branch" over the same inputs, which the node reads after its condition. Both are of domain
"edgepack", since no ONNX operator says what a body reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgepack.backends.spelling import respell
from edgepack.backends.table import BackendError
from edgepack.hub.graph import attribute, constant, dtype_name, label
from edgepack.hub.passes.bodies import BRANCHES, closed
from edgepack.hub.passes.control import never_ends
from edgepack.hub.passes.editing import Spellers, Spelling, is_read, known_shape, run_passes

if TYPE_CHECKING:
    import onnx_ir as ir

WHILE, CHOICE, DOMAIN = "While", "Choice", "edgepack"
BLOCKS = {WHILE: ("condition", "body"), CHOICE: BRANCHES}
# Rounds beyond what an int32 counter holds are not counted: only the condition ends such a loop.
_ENDLESS = 2**31 - 1
_HINT = "carry tensors of fixed shapes, or give the loop a constant number of rounds"


def with_blocks(model: ir.Model, rounds: Sequence[Spellers]) -> None:
    """Replace Loop, Scan and If in place, at every depth; ``rounds`` are the spellings that their bodies need as well.

    Raises:
        BackendError: what a node gives or carries has no fixed shape, or it never ends; the message names the node.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    for node in [node for node in model.graph if node.op_type in _MAKERS and node.domain in ("", "ai.onnx")]:
        made = _MAKERS[node.op_type](node, Spelling(model.graph, node))
        for name in BLOCKS[made.node.op_type]:
            body = ir.Model(made.node.attributes[name].as_graph(), ir_version=10)
            run_passes(body, common.NameFixPass(), common.ShapeInferencePass())
            _refuse_open_shapes(node, body.graph)
            respell(body, rounds)
            with_blocks(body, rounds)
        _refuse_changed_shapes(node, made.node)
        pairs = [(old, new) for old, new in zip(node.outputs, made.results, strict=True) if new is not None]
        olds, news = [old for old, _ in pairs], [new for _, new in pairs]
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], made.spell.nodes, olds, news)


def _refuse_open_shapes(node: ir.Node, graph: ir.Graph) -> None:
    for value in (*graph.inputs, *graph.outputs):
        shape = known_shape(value)
        if shape is None or 0 in shape:
            cause = f"'{value.name}' has shape {value.shape}, and what goes in and out of a body must have one that is fixed"
            raise BackendError(f"{label(node)}: {cause}", _HINT)
    for inner in graph:
        unknown = next((value for value in inner.outputs if is_read(value) and known_shape(value) is None), None)
        if unknown is not None:
            cause = f"{label(inner)} inside it gives '{unknown.name}' of shape {unknown.shape}, which only a run tells"
            raise BackendError(f"{label(node)}: {cause}", _HINT)


def _refuse_changed_shapes(node: ir.Node, made: ir.Node) -> None:
    """What a loop carries keeps its shape, what a branch gives has that of the other."""
    first, second = (made.attributes[name].as_graph() for name in BLOCKS[made.op_type])
    pairs = zip(second.inputs, second.outputs, strict=False) if made.op_type == WHILE else zip(first.outputs, second.outputs, strict=True)
    for one, other in pairs:
        if known_shape(one) != known_shape(other):
            cause = f"'{one.name}' has shape {one.shape}, and '{other.name}' in its place {other.shape}"
            raise BackendError(f"{label(node)}: {cause}", _HINT)


@dataclass(frozen=True)
class _Made:
    """The node in place of another, and what gives the other's outputs (None for one that nothing reads)."""

    node: ir.Node
    results: list[ir.Value | None]
    spell: Spelling


@dataclass(frozen=True)
class _Row:
    """What a body gives in every round, for an output with a place for each along ``axis``; the last round's first where ``turned``."""

    value: ir.Value
    output: ir.Value
    axis: int = 0
    turned: bool = False


@dataclass(frozen=True)
class _Rounds:
    """A Loop, or a Scan as one.

    Attributes:
        graph: inputs are the round, whether it goes on, the states and then ``given``; outputs whether to go on and the states.
        limit: how many rounds at most; None where only the condition ends them. goes_on: None where it does so at first.
        states: as they begin.
    """

    graph: ir.Graph
    limit: ir.Value | None
    goes_on: ir.Value | None
    states: list[ir.Value]
    given: list[ir.Value]
    rows: list[_Row]


def _loop(node: ir.Node, spell: Spelling) -> _Made:
    body = closed(node.attributes["body"].as_graph(), _opsets(node))
    states = [value for value in node.inputs[2:] if value is not None]
    outputs, count = list(body.model.graph.outputs), len(states)
    read = zip(outputs[1 + count :], node.outputs[count:], strict=True)
    rows = [_Row(value, output) for value, output in read if is_read(output)]
    limit, goes_on = node.inputs[0], node.inputs[1]
    _set_outputs(body.model.graph, outputs[: 1 + count])
    return _while(node, spell, _Rounds(body.model.graph, limit, goes_on, states, list(body.captured), rows))


def _scan(node: ir.Node, spell: Spelling) -> _Made:
    """ONNX Scan-21: in every round the body reads one place of each sequence."""
    import onnx_ir as ir

    body, count = closed(node.attributes["body"].as_graph(), _opsets(node)), attribute(node, "num_scan_inputs", 0)
    graph, own = body.model.graph, len(node.inputs)
    read_in = [value for value in node.inputs if value is not None]
    states, sequences = read_in[: own - count], read_in[own - count :]
    axes, backwards = (attribute(node, f"scan_input_{name}") or [0] * count for name in ("axes", "directions"))
    steps = (known_shape(sequences[0]) or (0,))[axes[0]] if known_shape(sequences[0]) else None
    if steps is None:
        raise BackendError(f"{label(node)}: only a run tells how long its sequences are", _HINT)
    inner, inputs = Spelling(graph, node), list(graph.inputs)
    turn, on = _input("round", (), ir.DataType.INT64), _input("goes_on", (), ir.DataType.BOOL)
    read: list[ir.Value] = []
    for part, sequence, axis, is_back in zip(inputs[own - count : own], sequences, axes, backwards, strict=True):
        whole = _like(sequence)
        place = inner("Sub", inner.constant(steps - 1, np.int64), turn) if is_back else turn
        ir.convenience.replace_all_uses_with(part, inner("Gather", whole, place, axis=axis), replace_graph_outputs=True)
        read.append(whole)
    first = next(iter(graph), None)
    graph.extend(inner.nodes) if first is None else graph.insert_before(first, inner.nodes)
    outputs, kept = list(graph.outputs), own - count
    out_axes, turned = (attribute(node, f"scan_output_{name}") or [0] * (len(outputs) - kept) for name in ("axes", "directions"))
    found = zip(outputs[kept:], node.outputs[kept:], out_axes, map(bool, turned), strict=True)
    rows = [_Row(*row) for row in found if is_read(row[1])]
    _set_inputs(graph, [turn, on, *inputs[:kept], *read, *inputs[own:]])
    _set_outputs(graph, [Spelling(graph, node).constant(True, np.bool_), *outputs[:kept]])
    limit = spell.constant(steps, np.int64)
    return _while(node, spell, _Rounds(graph, limit, None, states, [*sequences, *body.captured], rows))


def _while(node: ir.Node, spell: Spelling, rounds: _Rounds) -> _Made:
    import onnx_ir as ir

    graph, count = rounds.graph, len(rounds.states)
    turn, on, *held = graph.inputs
    goes_on, *results = graph.outputs
    moves = [_source(result) is not state for state, result in zip(held[:count], results, strict=True)]
    trips = constant(rounds.limit)
    is_endless = rounds.limit is None or (trips is not None and trips.item() >= _ENDLESS)
    always = never_ends(graph) and (rounds.goes_on is None or bool(np.all(constant(rounds.goes_on) or False)))
    if is_endless and always:
        raise BackendError(f"{label(node)}: neither a count nor a condition ends it", "give it a constant number of rounds")
    inner = Spelling(graph, node)
    buffers = [_buffer(node, row, trips) for row in rounds.rows]
    given = [] if rounds.limit is None or trips is not None else [_scalar(rounds.limit, spell)]
    following = [
        inner("Add", turn, inner.constant(1, np.int64)),
        _scalar(goes_on, inner),
        *(result for result, is_moved in zip(results, moves, strict=True) if is_moved),
        *(_collected(row, buffer, turn, inner) for row, buffer in zip(rounds.rows, buffers, strict=True)),
    ]
    graph.extend(inner.nodes)
    moved, still = ([place for place in range(count) if moves[place] is kind] for kind in (True, False))
    fixed = [*(held[place] for place in still), *held[count:], *map(_like, given)]
    _set_inputs(graph, [turn, on, *(held[place] for place in moved), *buffers, *fixed])
    _set_outputs(graph, following)
    begin = [
        spell.constant(0, np.int64),
        spell.constant(True, np.bool_) if rounds.goes_on is None else _scalar(rounds.goes_on, spell),
        *(rounds.states[place] for place in moved),
        *(spell.constant(np.zeros(known_shape(buffer) or ()), dtype_name(buffer)) for buffer in buffers),
    ]
    outer = [*begin, *(rounds.states[place] for place in still), *rounds.given, *given]
    condition = _condition(graph, None if is_endless else trips, bool(given), always, node)
    attributes = [ir.AttrGraph("condition", condition), ir.AttrGraph("body", graph), ir.AttrInt64("invariants", len(fixed))]
    made = ir.Node(DOMAIN, WHILE, outer, attributes, num_outputs=len(begin), name=node.name)
    _name_outputs(made, list(graph.inputs[: len(begin)]))
    spell.nodes.append(made)
    states = iter(made.outputs[2:])
    after: list[ir.Value | None] = [next(states) if is_moved else None for is_moved in moves]
    after = [_copied(spell, rounds.states[place]) if value is None else value for place, value in enumerate(after)]
    collected = {id(row.output): value for row, value in zip(rounds.rows, states, strict=True)}
    return _Made(made, [*after, *(collected.get(id(output)) for output in node.outputs[count:])], spell)


def _condition(body: ir.Graph, trips: np.ndarray | None, is_given: bool, always: bool, node: ir.Node) -> ir.Graph:
    """Whether another round follows: the last one went on, and the count is not reached."""
    import onnx_ir as ir

    inputs = [_like(value) for value in body.inputs]
    graph = ir.Graph(inputs, [], nodes=[], name="condition", opset_imports=dict(body.opset_imports))
    spell = Spelling(graph, node)
    limit = inputs[-1] if is_given else None if trips is None else spell.constant(trips.item(), np.int64)
    tests = [] if always else [inputs[1]]
    tests += [] if limit is None else [spell("Less", inputs[0], limit)]
    result = spell("And", *tests) if len(tests) > 1 else tests[0]
    graph.extend(spell.nodes)
    graph.outputs.append(result)
    return graph


def _buffer(node: ir.Node, row: _Row, trips: np.ndarray | None) -> ir.Value:
    """An input for what has been collected so far."""
    shape = known_shape(row.value)
    if trips is None or (node.op_type == "Loop" and known_shape(row.output) is None):
        cause = f"its output '{row.output.name}' has a place for every round, and only a run tells how many there are"
        raise BackendError(f"{label(node)}: {cause}", "give the loop a constant number of rounds and no condition")
    sizes = list(shape or ())
    sizes.insert(row.axis % (len(sizes) + 1), int(trips.item()))
    held = _like(row.value)
    return _input(f"{row.output.name}/rows", tuple(sizes), held.dtype)


def _collected(row: _Row, buffer: ir.Value, turn: ir.Value, spell: Spelling) -> ir.Value:
    """The rows so far with this round's in its place."""
    shape = known_shape(buffer) or ()
    axis = row.axis % len(shape)
    places = np.arange(shape[axis])[:: -1 if row.turned else 1].reshape([-1 if place == axis else 1 for place in range(len(shape))])
    is_here = spell("Equal", spell.constant(places, np.int64), turn)
    return spell("Where", is_here, spell("Unsqueeze", row.value, spell.integers(axis)), buffer)


def _choice(node: ir.Node, spell: Spelling) -> _Made:
    import onnx_ir as ir

    branches = [closed(node.attributes[name].as_graph(), _opsets(node)) for name in BRANCHES]
    read = list(dict.fromkeys(value for branch in branches for value in branch.captured))
    for branch in branches:
        inner = dict(zip(branch.captured, branch.model.graph.inputs, strict=True))
        _set_inputs(branch.model.graph, [inner.get(value) or _like(value) for value in read])
    attributes = [ir.AttrGraph(name, branch.model.graph) for name, branch in zip(BRANCHES, branches, strict=True)]
    assert node.inputs[0] is not None
    made = ir.Node(DOMAIN, CHOICE, [_scalar(node.inputs[0], spell), *read], attributes, num_outputs=len(node.outputs), name=node.name)
    _name_outputs(made, list(node.outputs))
    spell.nodes.append(made)
    return _Made(made, list(made.outputs), spell)


_MAKERS = {"If": _choice, "Loop": _loop, "Scan": _scan}


def _opsets(node: ir.Node) -> dict[str, int]:
    assert node.graph is not None
    return dict(node.graph.opset_imports)


def _source(value: ir.Value) -> ir.Value:
    """What a value is a copy of."""
    while (producer := value.producer()) is not None and producer.op_type == "Identity" and producer.inputs[0] is not None:
        value = producer.inputs[0]
    return value


def _input(name: str, shape: tuple[int, ...], dtype: ir.DataType | None) -> ir.Value:
    import onnx_ir as ir

    return ir.Value(name=name, shape=ir.Shape(shape), type=None if dtype is None else ir.TensorType(dtype))


def _like(value: ir.Value) -> ir.Value:
    import onnx_ir as ir

    return ir.Value(name=value.name, shape=value.shape, type=value.type)


def _scalar(value: ir.Value, spell: Spelling) -> ir.Value:
    """One element as a tensor without axes."""
    import onnx_ir as ir

    held = constant(value)
    if known_shape(value) == ():
        return value
    if held is not None:
        return spell.constant(held.reshape(()), held.dtype)
    reshaped = spell("Reshape", value, spell.integers())
    reshaped.shape, reshaped.type = ir.Shape(()), value.type
    return reshaped


def _copied(spell: Spelling, value: ir.Value) -> ir.Value:
    copy = spell("Identity", value)
    copy.shape, copy.type = value.shape, value.type
    return copy


def _name_outputs(node: ir.Node, alike: Sequence[ir.Value]) -> None:
    for place, (output, value) in enumerate(zip(node.outputs, alike, strict=True)):
        output.name, output.shape, output.type = f"{node.name}/{place}", value.shape, value.type


def _set_inputs(graph: ir.Graph, values: Sequence[ir.Value]) -> None:
    graph.inputs.clear()
    graph.inputs.extend(values)


def _set_outputs(graph: ir.Graph, values: Sequence[ir.Value]) -> None:
    graph.outputs.clear()
    graph.outputs.extend(values)
