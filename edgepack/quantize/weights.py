"""Schemes that need no calibration: int8 weights, and activations that stay real (w8) or are ranged at run time (w8d8).

Exchange form on the hub: every weight of a Conv, ConvTranspose, Gemm or MatMul is read through a DequantizeLinear (int8 codes in [-127,
127], zero point 0, a scale for each output channel), and so is every table that a Gather takes rows of (a scale for each row); biases and
activations stay real (a calibration set, where given, corrects the biases: ``bias_correction``). A table that is the last layer's weight
too (tied weights: MatMul reads its Transpose, or a Gemm reads it) is held once: its rows are the layer's output channels. Under w8d8 the
nodes to be computed on int8 activations also carry the metadata ``edgepack.activations = dynamic``; what range an activation has is the
runtime's to find.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.hub.graph import attribute, axes_order, constant
from edgepack.hub.passes import drop_unused
from edgepack.quantize.apply import refuse_codes
from edgepack.quantize.constraints import Demands, QuantizeError, erased, weight_encoding
from edgepack.quantize.insert import computed, read_from_codes
from edgepack.quantize.placement import ACTIVATIONS, DYNAMIC
from edgepack.quantize.tables import is_table

if TYPE_CHECKING:
    import onnx_ir as ir

# Operators with weights and the inputs that may hold them.
WEIGHTED = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1,), "MatMul": (1, 0), "Gather": (0,)}


@dataclass(frozen=True)
class WeightReport:
    """What was encoded.

    Attributes:
        encoded, found: weighted nodes by operator, those whose weights are codes and all of them.
        real: nodes whose weights stay real, with the reason.
        dynamic: names of the nodes to be computed on dynamic int8 activations.
    """

    encoded: dict[str, int]
    found: dict[str, int]
    real: dict[str, str]
    dynamic: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For the report: counts by operator, then what was left and why."""
        counts = ", ".join(f"{self.encoded.get(operator, 0)} of {count} {operator}" for operator, count in self.found.items())
        lines = [f"int8 weights in {counts}"]
        lines += [f"{len(self.dynamic)} of them on dynamic int8 activations"] if self.dynamic else []
        return lines + [f"'{name}' keeps real weights: {reason}" for name, reason in self.real.items()]


def quantize_weights(model: ir.Model, demands: Demands, dynamic: bool = False) -> tuple[ir.Model, WeightReport]:
    """The hub with int8 weights; ``model`` is left as it was.

    Args:
        dynamic: whether to mark nodes for dynamic int8 activations (w8d8).

    Raises:
        QuantizeError: the model carries Q/DQ already, or no weight can be encoded.
    """
    quantized = model.clone()
    refuse_codes(quantized)
    found: Counter[str] = Counter()
    encoded: Counter[str] = Counter()
    real: dict[str, str] = {}
    for node, stored in _weighted(quantized.graph):
        found[node.op_type] += 1
        reason = _encode(quantized.graph, stored, demands)
        if reason:
            real[node.name or ""] = reason
        else:
            encoded[node.op_type] += 1
    if not encoded:
        reason = next((f": '{name}' keeps them, {why}" for name, why in real.items()), "")
        raise QuantizeError(f"no weight of the student can be held in int8{reason}", "build this student with scheme fp32 or fp16")
    marked = tuple(_mark_dynamic(quantized.graph)) if dynamic else ()
    drop_unused(quantized)
    return quantized, WeightReport(dict(encoded), dict(found), real, marked)


@dataclass(frozen=True)
class _Stored:
    """A stored weight: who reads it at which input, its numbers, and its axis of output channels.

    The reader is the weighted node itself, or the Transpose through which it reads what others take as it is stored.
    """

    reader: ir.Node
    index: int
    value: ir.Value
    weight: NDArray[Any]
    axis: int


def _weighted(graph: ir.Graph) -> list[tuple[ir.Node, _Stored | None]]:
    """Every node with weights and where they are stored; None for weights that are computed."""
    nodes = [node for node in graph if node.op_type in WEIGHTED and (node.op_type != "Gather" or is_table(node))]
    return [(node, next(filter(None, map(partial(_stored, node), WEIGHTED[node.op_type])), None)) for node in nodes]


def _stored(node: ir.Node, index: int) -> _Stored | None:
    value = node.inputs[index]
    weight = constant(value)
    if value is None:
        return None
    if weight is not None:
        return _Stored(node, index, value, weight, _channel_axis(node, index, weight))
    moving = value.producer()
    source = moving.inputs[0] if moving is not None and moving.op_type == "Transpose" else None
    held = constant(source)
    if moving is None or source is None or held is None or not _is_plain(node):
        return None
    order = axes_order(moving)
    return _Stored(moving, 0, source, held, order[_channel_axis(node, index, held.transpose(order))])


def _is_plain(node: ir.Node) -> bool:
    """Whether a node multiplies by its weight and no more: canonical form sees to it for a Gemm whose weight is stored as it reads it."""
    return all(attribute(node, name, 1.0) == 1 for name in ("alpha", "beta")) and not attribute(node, "transA", 0)


def _encode(graph: ir.Graph, stored: _Stored | None, demands: Demands) -> str:
    """Encode one weight; the reason why not, or ""."""
    if stored is None:
        return "its weights are computed at run time"
    weight, axis = stored.weight, stored.axis
    if weight.dtype != np.float32 or weight.ndim < 2:
        return f"a weight of type {weight.dtype} and rank {weight.ndim} has no output channels"
    if not np.isfinite(weight).all():
        return "its weights hold infinities"
    encoding = weight_encoding(weight, axis, None, 1.0, demands)
    if erased(weight, encoding, demands):
        return "its weights are so small that their scales are no fp16 numbers"
    # One name for each (weight, axis): layers that share a weight share its codes. Two of them may read it through one Transpose.
    if stored.reader.inputs[stored.index] is stored.value:
        read_from_codes(graph, stored.reader, stored.index, f"{stored.value.name}/axis{axis}", weight, encoding)
    return ""


def _channel_axis(node: ir.Node, index: int, weight: NDArray[Any]) -> int:
    """The axis of a weight along which output channels lie.

    MatMul: columns of the right operand, rows of the left. ConvTranspose (C_in, C_out / group, ...): axis 1, which the groups share;
    with one output channel a group, axis 0 tells the channels apart. Gather: its rows. Gemm: rows where it is read transposed.
    """
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    if node.op_type == "MatMul":
        return weight.ndim - 1 if index == 1 else weight.ndim - 2
    if node.op_type == "ConvTranspose":
        return 0 if weight.shape[1] == 1 and attribute(node, "group", 1) == weight.shape[0] else 1
    return 0


def _mark_dynamic(graph: ir.Graph) -> list[str]:
    """Mark the nodes that a runtime may compute on int8 activations; their names.

    Measured with LiteRT 2.3, one thread, six layers each, milliseconds in fp32, with int8 weights, and dynamic:
    matrices 1024 x 1024 0.69, 0.84, 0.07; 3x3 convolutions 64 -> 64 7.8, 7.9, 0.85; 1x1 0.37, 0.37, 0.29; one partition in all of them.
    XNNPACK has no such kernel for grouped and depthwise convolutions: they would leave the partition, so they stay on real activations.
    onnxruntime computes products only (``backends/ort/lower.py``).
    """
    marked = [node for node in graph if _has_dynamic_kernel(node)]
    for node in marked:
        node.metadata_props[ACTIVATIONS] = DYNAMIC
    return [node.name or "" for node in marked]


def _has_dynamic_kernel(node: ir.Node) -> bool:
    """Products with a matrix of codes on the right, 2-D convolutions of one group by codes."""
    ranks = {"Gemm": 2, "MatMul": 2, "Conv": 4}
    weight = node.inputs[1] if node.op_type in ranks else None
    if weight is None or weight_codes(weight) is None:
        return False
    return len(weight.shape or ()) == ranks[node.op_type] and attribute(node, "group", 1) == 1


def weight_codes(weight: ir.Value) -> ir.Node | None:
    """The DequantizeLinear that a weight is read from, at once or through a Transpose; None for a weight in real numbers."""
    producer = weight.producer()
    if producer is not None and producer.op_type == "Transpose" and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    return (
        producer if producer is not None and producer.op_type == "DequantizeLinear" and constant(producer.inputs[0]) is not None else None
    )


def simulate_dynamic(model: ir.Model) -> ir.Model:
    """A copy in which the activations of marked nodes pass through DynamicQuantizeLinear and DequantizeLinear.

    One range for the whole tensor, as ONNX DynamicQuantizeLinear-11 has it; a runtime that ranges every row for itself errs less.
    """
    simulated = model.clone()
    for node in list(simulated.graph):
        if node.metadata_props.get(ACTIVATIONS) == DYNAMIC:
            _through_codes(simulated.graph, node)
    return simulated


def _through_codes(graph: ir.Graph, node: ir.Node) -> None:
    import onnx_ir as ir

    x = node.inputs[0]
    assert x is not None
    dynamic = ir.node("DynamicQuantizeLinear", [x], num_outputs=3, name=f"DynamicQuantizeLinear_{node.name}")
    for value, part in zip(dynamic.outputs, ("codes", "scale", "zero_point"), strict=True):
        value.name = f"{node.name}/{part}"
    real = computed("DequantizeLinear", f"{node.name}/x_dequantized", list(dynamic.outputs), x, "float32")
    graph.insert_before(node, [dynamic, real.producer()])  # type: ignore[list-item]
    node.replace_input_with(0, real)
