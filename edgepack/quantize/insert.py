"""Putting encoded tensors into a graph: initializers, nodes, and the DequantizeLinear that reads codes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.quantize.encoding import Encoding

if TYPE_CHECKING:
    import onnx_ir as ir


def initializer(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """The initializer called ``name``; it is made of ``array`` when the graph has none yet."""
    import onnx_ir as ir

    if name in graph.initializers:
        return graph.initializers[name]
    kind = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name), shape=ir.Shape(array.shape), type=kind)
    graph.register_initializer(value)
    return value


def computed(op_type: str, output: str, inputs: list[ir.Value], like: ir.Value, dtype: str, **attributes: Any) -> ir.Value:
    """The output of a new node called ``<op_type>_<output>``, shaped like ``like``; the caller places the node."""
    import onnx_ir as ir

    node = ir.node(op_type, inputs, attributes, name=f"{op_type}_{output}")
    value = node.outputs[0]
    value.name, value.shape = output, like.shape
    value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
    return value


def parameters(graph: ir.Graph, name: str, encoding: Encoding) -> tuple[ir.Value, ir.Value]:
    """Scale and zero point of an encoding as initializers."""
    return initializer(graph, f"{name}/scale", encoding.scale), initializer(graph, f"{name}/zero_point", encoding.zero_point)


def read_from_codes(graph: ir.Graph, node: ir.Node, index: int, name: str, real: NDArray[Any], encoding: Encoding) -> ir.Value:
    """Let input ``index`` of ``node`` read ``real`` back from its codes, through a DequantizeLinear placed before the node.

    Nodes that are given the same name in graph order share the DequantizeLinear.
    """
    codes = initializer(graph, f"{name}/codes", encoding.quantize(real))
    value = next((use.node.outputs[0] for use in codes.uses()), None)
    if value is None:
        axis = {} if encoding.axis is None else {"axis": encoding.axis}
        value = computed("DequantizeLinear", f"{name}_dequantized", [codes, *parameters(graph, name, encoding)], codes, "float32", **axis)
        graph.insert_before(node, value.producer())  # type: ignore[arg-type]
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)
    return value
