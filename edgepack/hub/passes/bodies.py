"""The bodies of control flow that stays in place (edgepack.hub.passes.control), each in canonical form like a model of its own.

A body reads the values around it by name. Taken out it gets them as further inputs, and constants as initializers; rewritten, it goes
back in. What a loop carries has the shape that it begins with, where the body keeps it so: that is what fixed-shape formats can hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepack.hub.graph import HubError, attribute, constant
from edgepack.hub.passes.control import OPERATORS, never_ends
from edgepack.hub.passes.editing import initializer, run_passes

if TYPE_CHECKING:
    import onnx_ir as ir

Shape = tuple[object, ...]
BRANCHES = ("then_branch", "else_branch")


@dataclass(frozen=True)
class Closed:
    """A body by itself.

    Attributes:
        model: its inputs are those of the body, then one for each of ``captured``.
        captured: what it reads of the graphs around it and only a run knows.
    """

    model: ir.Model
    captured: tuple[ir.Value, ...]


def closed(body: ir.Graph, opsets: Mapping[str, int]) -> Closed:
    """A copy of a body that reads nothing from outside."""
    import onnx_ir as ir

    copy = body.clone(allow_outer_scope_values=True)
    copy.opset_imports.update(opsets)
    inner: dict[ir.Value, ir.Value] = {}
    captured: list[ir.Value] = []
    for value in _from_outside(copy):
        held = constant(value)
        if held is not None:
            inner[value] = initializer(copy, value.name or "constant", held)
            continue
        inner[value] = ir.Value(name=value.name, shape=value.shape, type=value.type)
        copy.inputs.append(inner[value])
        captured.append(value)
    for node in copy.all_nodes():
        for index, read in enumerate(node.inputs):
            if read in inner:
                node.replace_input_with(index, inner[read])
    for graph in copy.subgraphs():
        for index, output in enumerate(graph.outputs):
            graph.outputs[index] = inner.get(output, output)
    for index, output in enumerate(copy.outputs):
        copy.outputs[index] = inner.get(output, output)
    return Closed(ir.Model(copy, ir_version=10), tuple(captured))


def _from_outside(graph: ir.Graph) -> list[ir.Value]:
    """What the nodes and outputs of a graph, and of those inside it, read that none of them gives; in order."""
    graphs = [graph, *graph.subgraphs()]
    own = {value for held in graphs for value in (*held.inputs, *held.initializers.values())}
    own |= {value for node in graph.all_nodes() for value in node.outputs}
    read = [value for node in graph.all_nodes() for value in node.inputs if value is not None]
    read += [value for held in graphs for value in held.outputs]
    return list(dict.fromkeys(value for value in read if value not in own))


def canonical_bodies(model: ir.Model) -> bool:
    """Every If, Loop and Scan that is left: its bodies canonical, the shapes of its results where they are the same in every run."""
    from onnx_ir.passes import common

    changed = False
    for node in [node for node in model.graph if node.op_type in OPERATORS]:
        run_passes(model, common.ShapeInferencePass())
        changed = _settle(model, node) or changed
    if changed:
        run_passes(model, common.LiftSubgraphInitializersToMainGraphPass(), common.NameFixPass(), common.ShapeInferencePass())
    return changed


def _settle(model: ir.Model, node: ir.Node) -> bool:
    names = BRANCHES if node.op_type == "If" else ("body",)
    bodies = [closed(node.attributes[name].as_graph(), model.graph.opset_imports) for name in names]
    try:
        for body in bodies:
            _give_shapes(node, body.model.graph)
            _canonical(body.model)
    except HubError:
        # Its shapes are not known before it runs. onnxruntime runs it as it is; a format that wants them refuses the node.
        return False
    for result, shape in zip(node.outputs, _RESULTS[node.op_type](node, [body.model.graph for body in bodies]), strict=True):
        if shape is not None:
            import onnx_ir as ir

            result.shape = ir.Shape(shape)  # type: ignore[arg-type]
    for name, body in zip(names, bodies, strict=True):
        _put_back(node, name, body)
    return True


def _canonical(model: ir.Model) -> None:
    from edgepack.hub import passes

    for rewrite in passes.sequence():
        rewrite(model)


def _give_shapes(node: ir.Node, body: ir.Graph) -> None:
    """Shapes of a body's own inputs: states as they begin, a step of each sequence."""
    import onnx_ir as ir

    given: list[Shape | None] = []
    if node.op_type == "Loop":
        given = [(), (), *map(_shape, node.inputs[2:])]
    if node.op_type == "Scan":
        count = attribute(node, "num_scan_inputs", 0)
        states, sequences = node.inputs[: len(node.inputs) - count], node.inputs[len(node.inputs) - count :]
        axes = attribute(node, "scan_input_axes") or [0] * count
        given = [*map(_shape, states), *(_without(_shape(held), axis) for held, axis in zip(sequences, axes, strict=True))]
    declared = [_shape(value) for value in body.inputs]
    for value, shape in zip(body.inputs, given, strict=False):
        if shape is not None:
            value.shape = ir.Shape(shape)  # type: ignore[arg-type]
    if any(shape is not None and old is not None and old != shape for old, shape in zip(declared, given, strict=False)):
        # What was inferred of the body from other shapes no longer holds.
        for value in (value for inner in body.all_nodes() for value in inner.outputs):
            value.shape = None


def _shape(value: ir.Value | None) -> Shape | None:
    return None if value is None or value.shape is None else tuple(value.shape)


def _without(shape: Shape | None, axis: int) -> Shape | None:
    return None if shape is None else tuple(size for place, size in enumerate(shape) if place != axis % len(shape))


def _same(first: ir.Value | None, second: ir.Value | None) -> Shape | None:
    """The shape of both where it is one, sizes unknown in neither."""
    shapes = [_shape(first), _shape(second)]
    is_known = shapes[0] is not None and all(isinstance(size, int) or getattr(size, "value", None) for size in shapes[0])
    return shapes[0] if is_known and shapes[0] == shapes[1] else None


def _of_if(node: ir.Node, bodies: Sequence[ir.Graph]) -> list[Shape | None]:
    return [_same(first, second) for first, second in zip(bodies[0].outputs, bodies[1].outputs, strict=True)]


def _of_loop(node: ir.Node, bodies: Sequence[ir.Graph]) -> list[Shape | None]:
    """States that keep their shape; rows of every round where there are as many in every run."""
    body, count = bodies[0], len(node.inputs) - 2
    states = [_same(first, second) for first, second in zip(body.inputs[2 : 2 + count], body.outputs[1 : 1 + count], strict=True)]
    trips, goes_on = constant(node.inputs[0]), constant(node.inputs[1])
    runs = node.inputs[1] is None or (goes_on is not None and bool(goes_on.all()))
    count_of_all = int(trips.item()) if trips is not None and runs and never_ends(body) else 0
    rows = [_shape(value) for value in body.outputs[1 + count :]]
    return [*states, *((count_of_all, *row) if count_of_all > 0 and row is not None else None for row in rows)]


def _of_scan(node: ir.Node, bodies: Sequence[ir.Graph]) -> list[Shape | None]:
    body, count = bodies[0], len(node.inputs) - attribute(node, "num_scan_inputs", 0)
    states = [_same(first, second) for first, second in zip(body.inputs[:count], body.outputs[:count], strict=True)]
    return [*states, *(None for _ in body.outputs[count:])]


_RESULTS = {"If": _of_if, "Loop": _of_loop, "Scan": _of_scan}


def _put_back(node: ir.Node, name: str, body: Closed) -> None:
    """A canonical body in the place of the one it came from, reading what is around it by name."""
    import onnx_ir as ir

    graph = body.model.graph
    own = len(graph.inputs) - len(body.captured)
    inputs, nodes, results = list(graph.inputs), list(graph), list(graph.outputs)
    made = {output for inner in nodes for output in inner.outputs}
    outer = dict(zip(inputs[own:], body.captured, strict=True))
    graph.outputs.clear()
    graph.inputs.clear()
    graph.remove(nodes)
    constants = list(graph.initializers.values())
    graph.initializers.clear()
    for place, value in enumerate(results):
        if value not in made or value in results[:place]:
            copy = ir.node("Identity", [value], name=f"Identity_{place}")
            copy.outputs[0].name, copy.outputs[0].type, copy.outputs[0].shape = f"{value.name}/{place}", value.type, value.shape
            nodes.append(copy)
            results[place] = copy.outputs[0]
    for inner_value, value in outer.items():
        ir.convenience.replace_all_uses_with(inner_value, value)
    for inner in nodes:
        inner.name = f"{node.name}/{inner.name}"
    for value in (*constants, *(output for inner in nodes for output in inner.outputs)):
        value.name = f"{node.name}/{value.name}"
    held = ir.Graph(inputs[:own], results, nodes=nodes, initializers=constants, name=f"{node.name}/{name}")
    node.attributes[name] = ir.AttrGraph(name, held)
