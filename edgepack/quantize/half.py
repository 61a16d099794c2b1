"""What fp16 alone costs: the hub with its numbers rounded to half precision, to be run in fp32. A measure, never an artifact.

Where it computes in fp16 (Core ML) every constant and every result is rounded, the sums inside an operator are not: how wide a runtime
accumulates is its own. Where only weights are halves (TFLite) nothing else is rounded. Finite numbers beyond fp16 become its largest, as
the writers have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.hub.graph import constant, dtype_name
from edgepack.quantize.insert import computed
from edgepack.quantize.weights import WEIGHTED

if TYPE_CHECKING:
    import onnx_ir as ir

_LARGEST = float(np.finfo(np.float16).max)


def rounded_to_half(model: ir.Model, computes: bool) -> ir.Model:
    """A copy of the hub whose weights, or with ``computes`` all constants and results, are fp16 numbers held as float32."""
    copy = model.clone()
    values = copy.graph.initializers.values() if computes else _weights(copy.graph)
    for value in list(values):
        held = constant(value)
        if held is not None and held.dtype == np.float32:
            value.const_value = _tensor(half(held), value.name or "")
    if computes:
        for node in list(copy.graph):
            for output in node.outputs:
                _round(copy.graph, output)
        for given in copy.graph.inputs:
            _round(copy.graph, given)
    return copy


def half(array: NDArray[Any]) -> NDArray[np.float32]:
    """float32 numbers as fp16 holds them: round half to even, finite ones saturate."""
    saturated: NDArray[np.float32] = np.where(np.isfinite(array), np.clip(array, -_LARGEST, _LARGEST), array)
    return saturated.astype(np.float16).astype(np.float32)


def _weights(graph: ir.Graph) -> list[ir.Value]:
    places = [node.inputs[index] for node in graph for index in WEIGHTED.get(node.op_type, ()) if index < len(node.inputs)]
    return list({id(value): value for value in places if value is not None and constant(value) is not None}.values())


def _tensor(array: NDArray[Any], name: str) -> Any:
    import onnx_ir as ir

    return ir.tensor(array, name=name)


def _round(graph: ir.Graph, value: ir.Value) -> None:
    """Let every reader of a real value read it through fp16; a graph output keeps its name."""
    import onnx_ir as ir

    if value.name == "" or dtype_name(value) != "float32":
        return
    uses, name, is_output = list(value.uses()), value.name or "", value.is_graph_output()
    if is_output:
        value.name = f"{name}/exact"
    narrow = computed("Cast", f"{name}/half", [value], value, "float16", to=int(ir.DataType.FLOAT16))
    wide = computed("Cast", name if is_output else f"{name}/rounded", [narrow], value, "float32", to=int(ir.DataType.FLOAT))
    for use in uses:
        use.node.replace_input_with(use.idx, wide)
    if is_output:
        index = next(position for position, output in enumerate(graph.outputs) if output is value)
        graph.outputs[index] = wide
    producer, pair = value.producer(), [narrow.producer(), wide.producer()]
    if producer is None:
        graph.insert_before(graph[0], pair)  # type: ignore[arg-type]
    else:
        graph.insert_after(producer, pair)  # type: ignore[arg-type]
