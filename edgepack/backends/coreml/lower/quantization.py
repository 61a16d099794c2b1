"""QuantizeLinear and DequantizeLinear of activations -> iOS 17's quantize and dequantize. Constants become codes where they are read."""

from __future__ import annotations

from typing import Any

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import lowers, required
from edgepack.quantize.encoding import Encoding
from edgepack.quantize.fold import Operand, Operation


def _codes(operation: Operation) -> Operand:
    return operation.outputs[0] if operation.op_type == "QuantizeLinear" else required(operation, 0)


def _form(operation: Operation) -> tuple[str, str] | None:
    codes = _codes(operation)
    encoding = codes.encoding
    if encoding is None:
        return "scale or zero point is computed at run time", "use a static scheme (w8a8)"
    if encoding.scale.ndim > 1 or operation.attributes.get("block_size", 0):
        return "scales weights in blocks, which needs an iOS 18 form this backend does not write", "use scheme w8a8 or fp32"
    if codes.constant is None and encoding.dtype == "int32":
        return "makes int32 codes of an activation", "use uint8 or int8 codes"
    if encoding.dtype == "int32" and (encoding.zero_point != 0).any():
        return "has int32 codes with a zero point", "use a zero point of 0"
    return None


@lowers("QuantizeLinear", honours={"axis", "saturate", "block_size", "output_dtype"}, objects=(_form,))
def quantize(operation: Operation, emit: Emitter) -> Var:
    """ONNX QuantizeLinear-21: divide, round half to even, add the zero point, saturate. ``saturate`` concerns float8 only."""
    codes = operation.outputs[0]
    encoding = codes.encoding
    assert encoding is not None
    x = emit.value(required(operation, 0))
    return emit("quantize", input=x, output_dtype=encoding.dtype, **_parameters(codes, encoding, emit))


@lowers("DequantizeLinear", honours={"axis", "block_size"}, objects=(_form,))
def dequantize(operation: Operation, emit: Emitter) -> Var:
    """ONNX DequantizeLinear-21 of an activation: scale * (code - zero point)."""
    codes = required(operation, 0)
    assert codes.encoding is not None
    return emit("dequantize", input=emit.value(codes), **_parameters(codes, codes.encoding, emit))


def _parameters(codes: Operand, encoding: Encoding, emit: Emitter) -> dict[str, Any]:
    scale = emit.scale(encoding, codes.name)
    given = {"scale": scale if scale.ndim else scale[()], "zero_point": encoding.zero_point[()]}
    return given if encoding.axis is None else {**given, "axis": encoding.axis}
