"""The float64 run of an ONNX graph: onnx's own reference evaluator over a model whose every float32 became float64."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx


class Float64Run:
    """A real-valued ONNX model evaluated in float64.

    Source: ``onnx.reference.ReferenceEvaluator``, numpy implementations of the operator specification, independent of onnxruntime.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx.reference import ReferenceEvaluator

        promoted = _promote(model)
        self._names = [output.name for output in promoted.graph.output]
        self._evaluator = ReferenceEvaluator(promoted)

    def __call__(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name; float32 inputs are promoted."""
        double = {name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in feed.items()}
        return dict(zip(self._names, self._evaluator.run(None, double), strict=True))


def _promote(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    promoted = onnx.ModelProto()
    promoted.CopyFrom(model)
    graph = promoted.graph
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(_doubled(tensor))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    del graph.value_info[:]
    _promote_nodes(graph.node)
    return promoted


def _promote_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    """Constants and casts inside the graph, subgraphs included."""
    import onnx

    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == onnx.TensorProto.FLOAT:
                attribute.t.CopyFrom(_doubled(attribute.t))
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.DOUBLE
            _promote_nodes(attribute.g.node)


def _doubled(tensor: onnx.TensorProto) -> onnx.TensorProto:
    import onnx

    return onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
