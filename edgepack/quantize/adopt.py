"""A student that arrives with Q/DQ keeps its codes: read, checked, brought to the hub's spelling. Nothing is quantized a second time.

Accepted is what quantization-aware training and onnxruntime's QDQ format give: 8-bit per-tensor activations as QuantizeLinear and
DequantizeLinear, symmetric int8 weights per tensor or per output channel, biases real or int32. Spelled anew, number for number: int8
activations become uint8 by +128 of code and zero point, uint8 weights with zero point 128 become int8, a weight's one scale is repeated
for every channel, and a bias is held at s_in * s_w, where it mostly is already. A node that no integer kernel can hold as the student
has it (a Concat of unequal scales, a Sigmoid with a scale of its own) computes in float from codes to codes, as its Q/DQ pairs say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.hub.graph import attribute, constant, dtype_name, label
from edgepack.hub.passes import drop_unused
from edgepack.quantize.apply import bias_encoding
from edgepack.quantize.constraints import PRESCRIBED, ActivationEncoding, Constraints, Demands, QuantizeError, channel_axis, round_scales
from edgepack.quantize.encoding import UINT8_TO_INT8, Encoding
from edgepack.quantize.fold import encoding_of
from edgepack.quantize.insert import initializer, parameters, read_from_codes
from edgepack.quantize.placement import (
    FIXED_OUTPUT,
    LINEAR,
    PLACEMENT,
    QUANTIZED,
    REAL,
    SAME_ENCODING,
    activation_inputs,
    data_inputs,
    fuses,
)

if TYPE_CHECKING:
    import onnx_ir as ir

_PAIR = ("QuantizeLinear", "DequantizeLinear")
# Operators of onnxruntime's and ONNX's other formats, which compute on codes by themselves.
_ON_CODES = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")


def adopt(model: ir.Model, demands: Demands) -> tuple[ir.Model, Constraints]:
    """The student's own quantized model as the quantized hub of w8a8; ``model`` is left as it was.

    Raises:
        QuantizeError: a form that the targets cannot hold number for number; the message names the node.
    """
    adopted = model.clone()
    graph = adopted.graph
    _refuse_codes_outside_pairs(graph)
    _encode_constants(graph)
    activations = _adopt_activations(graph, demands)
    if not activations:
        raise QuantizeError("the student quantizes weights only, not activations", "build the fp32 student with scheme w8 or w8d8")
    weighted = [_adopt_weights(graph, node, demands) for node in list(graph) if node.op_type in LINEAR]
    if not any(weighted):
        raise QuantizeError("no weight of the student is held in int8 beside int8 activations", "export its weights through Q/DQ too")
    real = {node.name or "": reason for node in graph if node.op_type not in _PAIR and (reason := _mark(node))}
    drop_unused(adopted)
    return adopted, Constraints(demands, activations, (), real, adopted=True)


def _refuse_codes_outside_pairs(graph: ir.Graph) -> None:
    for node in graph:
        if node.op_type in _ON_CODES:
            raise QuantizeError(f"{label(node)} computes on codes by itself", "export the student in QDQ format")
        if node.op_type in _PAIR and any(value is not None and constant(value) is None for value in node.inputs[1:]):
            raise QuantizeError(f"{label(node)} has a scale or zero point computed at run time", "export the student with constant ranges")
        if node.op_type in _PAIR and attribute(node, "block_size", 0):
            raise QuantizeError(f"{label(node)} scales in blocks", "export the student with scales for each tensor or channel")
        if node.op_type == "DequantizeLinear" and constant(node.inputs[0]) is None and not _is_written_by_quantize(node):
            raise QuantizeError(f"{label(node)} reads codes that no QuantizeLinear wrote", "let the student take and give real numbers")


def _is_written_by_quantize(node: ir.Node) -> bool:
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    return producer is not None and producer.op_type == "QuantizeLinear"


def _encode_constants(graph: ir.Graph) -> None:
    """QuantizeLinear of a constant, as fake quantization leaves it, becomes the codes themselves."""
    for node in [node for node in graph if node.op_type == "QuantizeLinear"]:
        held = constant(node.inputs[0])
        if held is not None:
            codes = initializer(graph, f"{node.outputs[0].name}/codes", encoding_of(node).quantize(held))
            for use in list(node.outputs[0].uses()):
                use.node.replace_input_with(use.idx, codes)


def _adopt_activations(graph: ir.Graph, demands: Demands) -> dict[str, ActivationEncoding]:
    """Every pair in the hub's spelling, one for each tensor; the encodings by name of what is quantized."""
    found: dict[str, ActivationEncoding] = {}
    first: dict[str, ir.Node] = {}
    for node in [node for node in graph if node.op_type == "QuantizeLinear" and constant(node.inputs[0]) is None]:
        value = node.inputs[0]
        assert value is not None
        name, encoding = value.name or "", _activation_encoding(node, demands)
        if found.setdefault(name, encoding) != encoding:
            raise QuantizeError(f"'{name}' is quantized twice, by {label(first[name])} and {label(node)}", "quantize it once")
        _respell(graph, node, first.setdefault(name, node), encoding.encoding())
    return found


def _activation_encoding(node: ir.Node, demands: Demands) -> ActivationEncoding:
    held = encoding_of(node)
    if held.scale.size != 1 or held.dtype not in ("uint8", "int8"):
        raise QuantizeError(
            f"{label(node)} writes {held.dtype} codes with {held.scale.size} scales", "quantize activations per tensor in 8 bits"
        )
    if not (np.isfinite(held.scale).all() and (held.scale > 0).all()):
        raise QuantizeError(f"{label(node)} has scale {held.scale.item()}", "calibrate the student before exporting it")
    shift = UINT8_TO_INT8 if held.dtype == "int8" else 0
    return ActivationEncoding(round_scales(held.scale, demands.scale_dtype).item(), int(held.zero_point.item()) + shift)


def _respell(graph: ir.Graph, node: ir.Node, first: ir.Node, encoding: Encoding) -> None:
    """Give a pair the hub's encoding; a second pair of the same tensor gives its readers to the first."""
    import onnx_ir as ir

    held, codes = encoding_of(node), node.outputs[0]
    for reader in [use.node for use in codes.uses()]:
        if reader.op_type != "DequantizeLinear" or not encoding_of(reader).same_as(held):
            raise QuantizeError(
                f"codes of {label(node)} are read by {label(reader)} in another way", "dequantize them as they were quantized"
            )
    if codes.is_graph_output():
        raise QuantizeError(f"{label(node)} writes an output of the student", "let the student give real numbers")
    given = parameters(graph, f"{first.outputs[0].name}/adopted", encoding)
    codes.type = ir.TensorType(ir.DataType.UINT8)
    for member in (node, *(use.node for use in list(codes.uses()))):
        member.resize_inputs(3)
        for index, value in enumerate(given, 1):
            member.replace_input_with(index, value)
    node.attributes.pop("output_dtype", None)
    if node is not first:
        for use in list(codes.uses()):
            use.node.replace_input_with(use.idx, first.outputs[0])


def _adopt_weights(graph: ir.Graph, node: ir.Node, demands: Demands) -> bool:
    """Weight and bias of a node in the hub's spelling; whether it computes on codes."""
    dequantize, source = _dequantizer(node.inputs[1]), _dequantizer(node.inputs[0])
    codes = constant(dequantize.inputs[0]) if dequantize is not None else None
    if dequantize is None or source is None or codes is None:
        return False
    encoding = _weight_encoding(node, dequantize, codes, demands)
    codes = _as_int8(codes)
    if codes.min() < -127:
        raise QuantizeError(
            f"weights of {label(node)} hold the code -128, which TFLite's 8-bit specification excludes", "train with weights in -127..127"
        )
    bias = _real_bias(node, codes.shape[channel_axis(node)])
    if bias is None:
        return False
    read_from_codes(graph, node, 1, f"{node.name}/weight", encoding.dequantize(codes, "float64"), encoding)
    if node.op_type != "MatMul":
        read_from_codes(graph, node, 2, f"{node.name}/bias", bias, bias_encoding(float(encoding_of(source).scale), encoding))
    return True


def _weight_encoding(node: ir.Node, dequantize: ir.Node, codes: NDArray[Any], demands: Demands) -> Encoding:
    """One scale an output channel, int8, zero point 0."""
    held, axis = encoding_of(dequantize), channel_axis(node)
    middle = UINT8_TO_INT8 if held.dtype == "uint8" else 0
    if held.dtype not in ("int8", "uint8") or (held.zero_point.astype(np.int64) != middle).any():
        raise QuantizeError(
            f"weights of {label(node)} are not symmetric in 8 bits", "quantize weights symmetrically (zero point 0 of int8)"
        )
    if held.scale.size != 1 and (held.axis is None or held.axis % codes.ndim != axis):
        raise QuantizeError(
            f"weights of {label(node)} have scales along axis {held.axis}, not along output channels (axis {axis})",
            "quantize weights per output channel or per tensor",
        )
    scale = round_scales(np.broadcast_to(held.scale.reshape(-1), (codes.shape[axis],)), demands.scale_dtype)
    return Encoding(scale, np.zeros(scale.shape, np.int8), "int8", axis)


def _as_int8(codes: NDArray[Any]) -> NDArray[np.int16]:
    return codes.astype(np.int16) - (UINT8_TO_INT8 if codes.dtype == np.uint8 else 0)


def _real_bias(node: ir.Node, channels: int) -> NDArray[np.float64] | None:
    """The bias in float64, zeros where there is none; None when it is computed at run time."""
    value = node.inputs[2] if node.op_type != "MatMul" and len(node.inputs) > 2 else None
    if value is None:
        return np.zeros(channels)
    dequantize = _dequantizer(value)
    held = constant(value if dequantize is None else dequantize.inputs[0])
    if held is None:
        return None
    real = held.astype(np.float64)
    if dequantize is not None:  # one scale, of shape () or (1,), or one a channel
        encoding = encoding_of(dequantize)
        real = (real - encoding.zero_point.reshape(-1)) * encoding.scale.reshape(-1).astype(np.float64)
    spread: NDArray[np.float64] = np.broadcast_to(real, (channels,)).astype(np.float64)
    return spread


def _dequantizer(value: ir.Value | None) -> ir.Node | None:
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def _mark(node: ir.Node) -> str:
    """Mark a node that computes on reals; why, when codes surround it and yet no integer kernel holds it, else ""."""
    surrounded = _is_surrounded(node)
    reason = _why_real(node) if surrounded else ""
    if reason or not surrounded:
        node.metadata_props[PLACEMENT] = REAL
    return reason


def _is_surrounded(node: ir.Node) -> bool:
    """Whether every activation comes from codes and every result goes into codes, a fused activation included."""
    return (
        bool(activation_inputs(node))
        and all(_dequantizer(value) is not None for value in data_inputs(node))
        and all(_quantizers(value) for value in _results(node))
    )


def _results(node: ir.Node) -> list[ir.Value]:
    readers = [use.node for use in node.outputs[0].uses()]
    fused = len(readers) == 1 and dtype_name(node.outputs[0]) == "float32" and fuses(node, readers[0])
    return list(readers[0].outputs if fused else node.outputs)


def _quantizers(value: ir.Value) -> list[ir.Node]:
    """The QuantizeLinear nodes that read a value, none when anything else reads it too."""
    readers = [use.node for use in value.uses()]
    only = not value.is_graph_output() and all(reader.op_type == "QuantizeLinear" for reader in readers)
    return readers if only else []


def _why_real(node: ir.Node) -> str:
    if node.op_type not in QUANTIZED:
        return f"no runtime computes {node.op_type} on codes"
    outputs = [encoding_of(_quantizers(value)[0]) for value in _results(node)]
    if node.op_type in LINEAR and not _has_adopted_weights(node):
        return "its weights or bias are computed at run time"
    inputs = [encoding_of(held) for value in data_inputs(node) if (held := _dequantizer(value)) is not None]
    if node.op_type in SAME_ENCODING and not all(outputs[0].same_as(other) for other in (*inputs, *outputs)):
        return "it joins tensors of unequal scales"
    if node.op_type in FIXED_OUTPUT and (float(outputs[0].scale), int(outputs[0].zero_point)) != PRESCRIBED[node.op_type]:
        return f"kernels prescribe another scale of its output than {float(outputs[0].scale):.6g}"
    return ""


def _has_adopted_weights(node: ir.Node) -> bool:
    dequantize = _dequantizer(node.inputs[1])
    return dequantize is not None and constant(dequantize.inputs[0]) is not None and encoding_of(dequantize).axis is not None
