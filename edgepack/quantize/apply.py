"""Writing a static scheme into the hub: Q/DQ pairs around activations, encoded weights and biases in place of real ones.

Names are stable: the codes of tensor ``t`` are ``t_quantized`` and the reals read back from them ``t_dequantized``; a graph output keeps
its own name, and what is quantized to make it is ``t_real``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.calibration.observe import Ranges
from edgepack.hub.graph import constant, label
from edgepack.hub.passes import drop_unused
from edgepack.quantize.constraints import (
    Constraints,
    Demands,
    QuantizeError,
    affine,
    channel_axis,
    constants_of,
    resolve,
    touched_values,
    weight_encoding,
)
from edgepack.quantize.encoding import Encoding
from edgepack.quantize.headroom import with_headroom
from edgepack.quantize.insert import computed, parameters, read_from_codes
from edgepack.quantize.placement import LINEAR, PLACEMENT, REAL, SAME_ENCODING, carries_codes, data_inputs, integer_nodes
from edgepack.quantize.tables import encode_tables

if TYPE_CHECKING:
    import onnx_ir as ir


def quantize_static(model: ir.Model, ranges: Ranges, demands: Demands) -> tuple[ir.Model, Constraints]:
    """The hub with a static scheme written into it, tables that Gathers take rows of included; ``model`` is left as it was.

    Raises:
        QuantizeError: the model carries Q/DQ already, no node can be quantized, or a range is missing.
    """
    quantized = model.clone()
    refuse_codes(quantized)
    constraints, kept = resolve(integer_nodes(quantized.graph), with_headroom(ranges, quantized.graph), demands)
    if not kept:
        reason = next((f": '{name}' stays real, {why}" for name, why in constraints.real.items()), "")
        raise QuantizeError(f"no node of the student can be quantized{reason}", "build this student with scheme fp32")
    _Writer(quantized.graph, constraints).write(kept)
    encode_tables(quantized.graph, demands)
    drop_unused(quantized)
    return quantized, constraints


def refuse_codes(model: ir.Model) -> None:
    """QuantizeError for a model that carries Q/DQ already: nothing is quantized twice."""
    if carries_codes(model.graph):
        raise QuantizeError(
            "the student already carries QuantizeLinear or DequantizeLinear nodes", "build it with scheme w8a8, which keeps its codes"
        )


class _Writer:
    """Rewrites one graph."""

    def __init__(self, graph: ir.Graph, constraints: Constraints) -> None:
        self._graph = graph
        self._constraints = constraints
        # Names before graph outputs were renamed: those that ranges and constraints use.
        self._name_of: dict[int, str] = {}

    def write(self, kept: list[ir.Node]) -> None:
        integer = {id(node) for node in kept}
        values = {value.name or "": value for node in kept for value in (*data_inputs(node), *node.outputs)}
        self._name_of = {id(value): name for name, value in values.items()}
        touched = dict.fromkeys(name for node in kept for name in touched_values(node))
        inputs = {id(node): list(node.inputs) for node in kept}
        for name in touched:
            self._insert_pair(values[name], integer)
        for node in kept:
            self._encode_constants(node, inputs[id(node)])
        self._mark_real(integer)

    def _mark_real(self, integer: set[int]) -> None:
        """Say of every other node that it stays real, whatever Q/DQ pairs end up around it."""
        for node in self._graph:
            if id(node) not in integer and node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                node.metadata_props[PLACEMENT] = REAL

    def _insert_pair(self, value: ir.Value, integer: set[int]) -> None:
        """value -> QuantizeLinear -> DequantizeLinear; who reads the value from now on reads what came through the codes."""
        name = value.name or ""
        uses = list(value.uses())
        producer = value.producer()
        from_codes = producer is not None and id(producer) in integer
        is_output = value.is_graph_output()
        if is_output:
            value.name = f"{name}_real"
        encoding = self._constraints.activations[name].encoding()
        held = parameters(self._graph, name, encoding)
        codes = computed("QuantizeLinear", f"{name}_quantized", [value, *held], value, encoding.dtype)
        real = computed("DequantizeLinear", name if is_output else f"{name}_dequantized", [codes, *held], value, "float32")
        for use in uses:
            if from_codes or id(use.node) in integer:
                use.node.replace_input_with(use.idx, real)
        if is_output:
            index = next(position for position, output in enumerate(self._graph.outputs) if output is value)
            self._graph.outputs[index] = real
        self._place(producer, codes, real)

    def _place(self, producer: ir.Node | None, codes: ir.Value, real: ir.Value) -> None:
        pair = [codes.producer(), real.producer()]
        if producer is None:
            self._graph.insert_before(self._graph[0], pair)  # type: ignore[arg-type]
        else:
            self._graph.insert_after(producer, pair)  # type: ignore[arg-type]

    def _encode_constants(self, node: ir.Node, original: list[ir.Value | None]) -> None:
        if node.op_type in LINEAR:
            self._encode_linear(node, original)
            return
        for index, value in enumerate(original):
            held = constant(value)
            if value in data_inputs(node) and held is not None:
                encoding = self._constant_encoding(node, held)
                read_from_codes(self._graph, node, index, f"{value.name}/{node.name}", held, encoding)

    def _constant_encoding(self, node: ir.Node, held: NDArray[Any]) -> Encoding:
        """Of a constant operand: the node's own where codes are only moved (a number no code reaches loses to those that one does)."""
        if node.op_type in SAME_ENCODING:
            return self._constraints.activations[self._name_of[id(node.outputs[0])]].encoding()
        return affine(float(held.min()), float(held.max()), self._constraints.demands.scale_dtype).encoding()

    def _encode_linear(self, node: ir.Node, original: list[ir.Value | None]) -> None:
        """int8 weights per output channel, int32 bias at scale s_in * s_w (a bias of zeros is added where there was none)."""
        roles = constants_of(node)
        weight, source, axis = roles["weight"], original[0], channel_axis(node)
        assert source is not None
        input_scale = self._constraints.activations[self._name_of[id(source)]].scale
        encoding = weight_encoding(weight, axis, roles.get("bias"), input_scale, self._constraints.demands)
        name = original[1].name if original[1] is not None else "weight"
        read_from_codes(self._graph, node, 1, f"{name}/{node.name}", weight, encoding)
        if node.op_type != "MatMul":
            bias = roles.get("bias", np.zeros(weight.shape[axis], np.float32))
            read_from_codes(self._graph, node, 2, f"{node.name}/bias", bias, bias_encoding(input_scale, encoding))


def bias_encoding(input_scale: float, weight: Encoding) -> Encoding:
    """int32 codes at scale s_in * s_w for each channel, zero point 0 (TFLite 8-bit quantization specification, bias)."""
    scale = (np.float32(input_scale) * weight.scale).astype(np.float32)
    return Encoding(scale, np.zeros(scale.shape, np.int32), "int32", 0)


def linear_nodes(model: ir.Model) -> list[ir.Node]:
    """The integer Conv, ConvTranspose and Gemm nodes of a quantized hub, in execution order."""
    return [
        node
        for node in model.graph
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.inputs) > 2 and _encoded_by(node.inputs[1]) is not None
    ]


def bias_of(node: ir.Node) -> tuple[ir.Value, NDArray[np.int32], NDArray[np.float32]]:
    """(initializer value, codes, scale) of the encoded bias of a linear node."""
    dequantize = _encoded_by(node.inputs[2])
    if dequantize is None or dequantize.inputs[0] is None:
        raise QuantizeError(f"{label(node)} has no encoded bias", "quantize the hub with this version")
    codes, scale = constant(dequantize.inputs[0]), constant(dequantize.inputs[1])
    assert codes is not None and scale is not None
    return dequantize.inputs[0], codes, scale


def _encoded_by(value: ir.Value | None) -> ir.Node | None:
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None
