"""Where codes and reals meet."""

from __future__ import annotations

from edgepack.backends.tflite.emit import Emitter
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import lowers
from edgepack.quantize.fold import Operation


@lowers("QuantizeLinear", honours={"axis", "saturate", "output_dtype"}, integer=())
def quantize(operation: Operation, emit: Emitter) -> View:
    """ONNX QuantizeLinear-21 per tensor -> QUANTIZE float32 to int8; a uint8 code c is the int8 code c - 128."""
    x = emit.take(operation.inputs[0])
    return emit.run("QUANTIZE", [x], emit.output(operation.outputs[0], x.layout), Options("QuantizeOptions"))


@lowers("DequantizeLinear", honours={"axis"}, integer=())
def dequantize(operation: Operation, emit: Emitter) -> View:
    """ONNX DequantizeLinear-21 per tensor -> DEQUANTIZE int8 to float32."""
    x = emit.take(operation.inputs[0])
    return emit.run("DEQUANTIZE", [x], emit.output(operation.outputs[0], x.layout), Options("DequantizeOptions"))
