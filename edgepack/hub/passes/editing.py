"""Editing an onnx_ir graph: initializers, attributes, and one node respelled as several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepack.hub.graph import label

if TYPE_CHECKING:
    import onnx_ir as ir


# Answers the values that take the place of a node's outputs (None for one that nothing reads), or None to leave the node as it is.
Speller = Callable[["ir.Node", "Spelling"], "Sequence[ir.Value | None] | None"]
Spellers = Mapping[str, Speller]


class Spelling:
    """Nodes that together say what one node said.

    Calling it adds a node and gives its output: ``spell("Mul", x, x)``. Numbers become initializers of the given type.
    """

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self.nodes: list[ir.Node] = []
        self._graph = graph
        self._stem = node.name or label(node)

    def __call__(self, operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add a node of one output."""
        return self.many(operator, inputs, 1, **attributes)[0]

    def many(self, operator: str, inputs: Sequence[ir.Value | None], outputs: int, **attributes: Any) -> list[ir.Value]:
        """Add a node of several outputs."""
        import onnx_ir as ir

        name = f"{self._stem}/{operator}{len(self.nodes)}"
        node = ir.node(operator, list(inputs), attributes, name=name, num_outputs=outputs)
        for index, value in enumerate(node.outputs):
            value.name = f"{name}_{index}" if index else name
        self.nodes.append(node)
        return list(node.outputs)

    def adopt(self, nodes: Sequence[ir.Node]) -> None:
        """Add nodes of another graph, in order, under names of their own; their shapes are to be inferred again."""
        for node in nodes:
            prefix = f"{self._stem}/{len(self.nodes)}"
            node.name = f"{prefix}/{node.name or node.op_type}"
            for index, value in enumerate(node.outputs):
                value.name, value.shape = value.name and f"{prefix}/{value.name or index}", None
            self.nodes.append(node)

    def constant(self, array: Any, dtype: Any) -> ir.Value:
        """An initializer."""
        return initializer(self._graph, f"{self._stem}/constant", np.asarray(array, dtype))

    def integers(self, *numbers: int) -> ir.Value:
        """int64 (n,), as axes and shapes are given."""
        return self.constant(numbers, np.int64)


def respelled(model: ir.Model, spellers: Spellers) -> bool:
    """Every node of the main graph that has a speller which does not leave it; whether there was one."""
    changed = [respell(model.graph, node, spellers[node.op_type]) for node in list(model.graph) if node.op_type in spellers]
    return any(changed)


def respell(graph: ir.Graph, node: ir.Node, speller: Speller) -> bool:
    """One node by its speller; whether it was replaced."""
    import onnx_ir as ir

    spelling = Spelling(graph, node)
    values = speller(node, spelling)
    if values is None:
        return False
    pairs = [(old, new) for old, new in zip(node.outputs, values, strict=True) if new is not None]
    olds, news = [old for old, _ in pairs], [new for _, new in pairs]
    ir.convenience.replace_nodes_and_values(graph, node, [node], spelling.nodes, olds, news)
    return True


def is_read(value: ir.Value) -> bool:
    """Whether anything reads an output: a node, or the person."""
    return value.is_graph_output() or bool(value.uses())


def known_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape when every size is known."""
    sizes = tuple(value.shape) if value is not None and value.shape is not None else (None,)
    return tuple(int(size) for size in sizes if isinstance(size, int)) if all(isinstance(size, int) for size in sizes) else None


def run_passes(model: ir.Model, *ir_passes: Any) -> bool:
    """All of the passes, in order; whether any of them changed the model."""
    modified = [run(model).modified for run in ir_passes]
    return any(modified)


def initializer(graph: ir.Graph, name: str, array: Any) -> ir.Value:
    import onnx_ir as ir

    while name in graph.initializers:
        name += "_"
    value = ir.Value(
        name=name,
        const_value=ir.tensor(array, name=name),
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
    )
    graph.register_initializer(value)
    return value


def set_attributes(node: ir.Node, values: dict[str, Any]) -> None:
    """Set attributes; None removes."""
    from onnx_ir.convenience import convert_attribute

    for name, value in values.items():
        if value is None:
            node.attributes.pop(name, None)
        else:
            node.attributes[name] = convert_attribute(name, value)


def fingerprint(model: ir.Model) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """What a pass that does not report changes may have changed: nodes and their wiring."""
    return [
        (
            node.op_type,
            tuple(value.name or "" if value is not None else "" for value in node.inputs),
            tuple(value.name or "" for value in node.outputs),
        )
        for node in model.graph
    ]
