"""Operators that came after the hub's opset, have no function body, and are said with those it has: before the model is converted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

Shapes = dict[str, tuple[int, ...]]
# Answers the nodes and initializers that take a node's place, None to leave it.
Writer = Callable[["onnx.NodeProto", Shapes], "tuple[list[onnx.NodeProto], list[onnx.TensorProto]] | None"]


def spelled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with such operators of its main graph in older words; itself when there is none."""
    import onnx

    if not any(node.op_type in _WRITERS for node in model.graph.node):
        return model
    copy, shapes = onnx.ModelProto(), _shapes(model)
    copy.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        writer = _WRITERS.get(node.op_type)
        written = writer(node, shapes) if writer is not None else None
        nodes += [node] if written is None else written[0]
        copy.graph.initializer.extend([] if written is None else written[1])
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _shapes(model: onnx.ModelProto) -> Shapes:
    """The static shapes of a model's values, by name."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    held: Shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes = [size.dim_value if size.HasField("dim_value") else None for size in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.HasField("shape") and None not in sizes:
            held[value.name] = tuple(size for size in sizes if size is not None)
    return held


def _tensor_scatter(node: onnx.NodeProto, shapes: Shapes) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]] | None:
    """ONNX TensorScatter-24, what a key-value cache does: rows of the update to the places that follow each image's write index."""
    from onnx import helper, numpy_helper

    given = {held.name: helper.get_attribute_value(held) for held in node.attribute}
    cache, update = (shapes.get(name) for name in node.input[:2])
    if cache is None or update is None:
        return None
    axis, stem = int(given.get("axis", -2)) % len(cache), node.name or node.output[0]
    weights: list[onnx.TensorProto] = []

    def held(suffix: str, array: Any) -> str:
        weights.append(numpy_helper.from_array(np.asarray(array, np.int64), f"{stem}/{suffix}"))
        return weights[-1].name

    # (*axes before, rows, axis + 1): the place of each row of the update when it is written from 0 on.
    places = held("places", np.moveaxis(np.indices(update[: axis + 1]), 0, -1))
    nodes = []
    if len(node.input) > 2 and node.input[2]:
        column = held("column", [cache[0], *[1] * (axis + 1)])
        last = held("last", [0] * axis + [1])
        nodes += [
            helper.make_node("Reshape", [node.input[2], column], [f"{stem}/first"], f"{stem}/first"),
            helper.make_node("Mul", [f"{stem}/first", last], [f"{stem}/offset"], f"{stem}/offset"),
            helper.make_node("Add", [places, f"{stem}/offset"], [f"{stem}/moved"], f"{stem}/moved"),
        ]
        places = f"{stem}/moved"
        if given.get("mode", b"linear") == b"circular":
            nodes.append(helper.make_node("Mod", [places, held("sizes", cache[: axis + 1])], [f"{stem}/around"], f"{stem}/around"))
            places = f"{stem}/around"
    return [*nodes, helper.make_node("ScatterND", [node.input[0], places, node.input[1]], node.output, node.name)], weights


_WRITERS: dict[str, Writer] = {"TensorScatter": _tensor_scatter}
