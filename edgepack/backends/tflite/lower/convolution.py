"""Conv and ConvTranspose, one or two spatial axes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from edgepack.backends.tflite.emit import ACTIVATIONS, Emitter, is_integer
from edgepack.backends.tflite.layout import Layout
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import Refusal, attribute_is, constant_inputs, lowers, ranks
from edgepack.backends.tflite.window import WINDOW_ATTRIBUTES, Window, as_hub, as_image, image_output, padded, pair
from edgepack.quantize.encoding import Encoding
from edgepack.quantize.fold import Operand, Operation

# float32 products of two scales may differ in the last place between writers.
_SCALE_TOLERANCE = 1e-6


def symmetric_weights(axis: int) -> Any:
    """Integer kernels take int8 weights with zero point 0, codes -127..127, one scale for all or one for each output channel."""

    def objection(operation: Operation) -> Refusal:
        weight = operation.inputs[1]
        if weight is None or weight.encoding is None or weight.constant is None:
            return None
        held = weight.encoding
        if held.dtype != "int8" or np.any(held.zero_point) or (weight.constant.size and weight.constant.min() < -127):
            return f"weight '{weight.name}' is not symmetric int8 in -127..127", "quantize weights symmetrically"
        if held.scale.size > 1 and held.axis is not None and held.axis % weight.rank != axis % weight.rank:
            return f"weight '{weight.name}' has scales along axis {held.axis}", f"quantize it along axis {axis % weight.rank}"
        return None

    return objection


def bias_scale(operation: Operation) -> Refusal:
    """Integer kernels add the bias to the sum of products: its scale is input scale times weight scale."""
    source, weight, bias = (*operation.inputs, None)[:3]
    if bias is None or bias.encoding is None or source is None or weight is None or source.encoding is None or weight.encoding is None:
        return None
    if bias.encoding.dtype != "int32" or np.any(bias.encoding.zero_point):
        return f"bias '{bias.name}' is not int32 with zero point 0", "quantize the bias to int32 with scale s_in * s_w"
    product = source.encoding.scale.astype(np.float64) * weight.encoding.scale
    if np.allclose(bias.encoding.scale, product, rtol=_SCALE_TOLERANCE, atol=0):
        return None
    return f"bias '{bias.name}' has a scale other than s_in * s_w", "quantize the bias with scale s_in * s_w"


@lowers(
    "Conv",
    honours=WINDOW_ATTRIBUTES | {"group"},
    objects=(ranks(3, 4), constant_inputs(1, 2)),
    integer=(symmetric_weights(0), bias_scale),
)
def convolution(operation: Operation, emit: Emitter) -> View:
    """ONNX Conv-11 -> CONV_2D with filters (O, kh, kw, I / group), or DEPTHWISE_CONV_2D with filters (1, kh, kw, O).

    Padding is SAME only where TFLite splits it as the hub does, else written out. Groups stay one CONV_2D: its kernels know them.
    """
    weight = operation.inputs[1]
    assert weight is not None and weight.constant is not None
    window = Window.of(operation, weight.shape[2:])
    x = as_image(emit.take(operation.inputs[0]), emit)
    if not (window.is_valid or window.is_tflite_same):
        x, window = padded(x, window, emit), window.without_padding()
    group, channels = int(operation.attributes.get("group", 1)), x.stored[3]
    is_depthwise = 1 < group == channels
    filters = _filters(operation, emit, weight, window, is_depthwise)
    output = image_output(operation, emit, (x.stored[0], *window.output, weight.shape[0]), operation.activation)
    options = _options(window, operation.activation, weight.shape[0] // channels if is_depthwise else 0)
    name = "DEPTHWISE_CONV_2D" if is_depthwise else "CONV_2D"
    inputs = [x, filters, bias_of(operation, emit, weight.shape[0])]
    return as_hub(emit.run(name, inputs, output, options), operation, emit)


def _filters(operation: Operation, emit: Emitter, weight: Operand, window: Window, is_depthwise: bool) -> View:
    """(O, I, kh, kw) -> (O, kh, kw, I), or (O, 1, kh, kw) -> (1, kh, kw, O); a scale for each O either way."""
    assert weight.constant is not None
    square = weight.constant.reshape(*weight.shape[:2], *window.kernel)
    data = square.transpose(1, 2, 3, 0) if is_depthwise else square.transpose(0, 2, 3, 1)
    axis = 3 if is_depthwise else 0
    encoding = None if weight.encoding is None else replace(per_channel(weight.encoding, weight.shape[0]), axis=axis)
    return emit.weights(weight.name, np.ascontiguousarray(data), encoding, is_integer(operation))


def _options(window: Window, activation: str, multiplier: int) -> Options:
    fields: dict[str, Any] = {
        "padding": window.padding,
        "strideH": window.strides[0],
        "strideW": window.strides[1],
        "dilationHFactor": window.dilations[0],
        "dilationWFactor": window.dilations[1],
        "fusedActivationFunction": ACTIVATIONS[activation],
    }
    if multiplier:
        return Options("DepthwiseConv2DOptions", {**fields, "depthMultiplier": multiplier})
    return Options("Conv2DOptions", fields)


def per_channel(encoding: Encoding, channels: int) -> Encoding:
    """An encoding with one scale for each output channel."""
    scale = np.broadcast_to(encoding.scale.ravel(), (channels,)).astype(np.float32)
    zero_point = np.broadcast_to(encoding.zero_point.ravel(), (channels,)).astype(encoding.zero_point.dtype)
    return Encoding(scale, zero_point, encoding.dtype, 0)


def bias_of(operation: Operation, emit: Emitter, channels: int) -> View:
    """The bias of (channels,): the hub's codes or reals, zeros where it has none, since XNNPACK takes none without."""
    bias = operation.inputs[2] if len(operation.inputs) > 2 else None
    if not is_integer(operation):
        real = np.zeros(channels, np.float32) if bias is None else np.broadcast_to(bias.real().ravel(), (channels,))
        return emit.constant("bias" if bias is None else bias.name, real)
    source, weight = operation.inputs[:2]
    assert source is not None and weight is not None and source.encoding is not None and weight.encoding is not None
    product = np.broadcast_to(source.encoding.scale.ravel() * weight.encoding.scale.ravel(), (channels,)).astype(np.float32)
    if bias is None or bias.encoding is None or bias.constant is None:
        encoding = Encoding(product, np.zeros(channels, np.int32), "int32", 0)
        return emit.constant("bias", np.zeros(channels, np.int32), encoding)
    return emit.constant(bias.name, np.broadcast_to(bias.constant.ravel(), (channels,)), per_channel(bias.encoding, channels))


def _one_group(operation: Operation) -> Refusal:
    weight = operation.inputs[1]
    if operation.attributes.get("group", 1) != 1:
        return "groups of a transposed convolution have no kernel", "use group 1, or Resize followed by Conv"
    if any(step != 1 for step in operation.attributes.get("dilations") or ()):
        return "a dilated transposed convolution has no kernel", "use dilation 1"
    return (
        None if weight is not None and weight.rank == operation.outputs[0].rank else ("weight has another rank than the input", "check it")
    )


@lowers(
    "ConvTranspose",
    honours={"kernel_shape", "strides", "pads", "auto_pad", "dilations", "group", "output_padding"},
    objects=(ranks(3, 4), constant_inputs(1, 2), _one_group, attribute_is("auto_pad", "NOTSET")),
)
def transposed_convolution(operation: Operation, emit: Emitter) -> View:
    """ONNX ConvTranspose-11, W (I, O, kh, kw) -> TRANSPOSE_CONV VALID, whose whole result is then cut by ``pads``.

    Whole size: (in - 1) * stride + kernel + output_padding. ``output_shape`` is not honoured: torch never writes it.
    """
    weight = operation.inputs[1]
    assert weight is not None and weight.constant is not None
    x = as_image(emit.take(operation.inputs[0]), emit)
    window = Window.of(operation, weight.shape[2:])
    extra = pair(operation.attributes.get("output_padding") or (), 0)
    whole = tuple((x.stored[1 + i] - 1) * window.strides[i] + window.kernel[i] + extra[i] for i in (0, 1))
    data = weight.real().reshape(*weight.shape[:2], *window.kernel).transpose(1, 2, 3, 0)
    filters = emit.weights(weight.name, np.ascontiguousarray(data), None, False)
    shape = (x.stored[0], *whole, weight.shape[1])
    inputs = [emit.indices("output_shape", shape), filters, x, bias_of(operation, emit, weight.shape[1])]
    fields = {"padding": "VALID", "strideH": window.strides[0], "strideW": window.strides[1], "fusedActivationFunction": "NONE"}
    full = emit.run("TRANSPOSE_CONV", inputs, image_output(operation, emit, shape), Options("TransposeConvOptions", fields))
    return as_hub(_cut(full, window, emit), operation, emit)


def _cut(image: View, window: Window, emit: Emitter) -> View:
    """The image without ``begin`` and ``end`` elements at its edges."""
    if window.is_valid:
        return image
    batch, height, width, channels = image.stored
    size = (batch, height - window.begin[0] - window.end[0], width - window.begin[1] - window.end[1], channels)
    begin, sizes = emit.indices("begin", (0, *window.begin, 0)), emit.indices("size", size)
    assert math.prod(size) > 0
    return emit.run("SLICE", [image, begin, sizes], emit.like(image, Layout.plain(size), "cut"), Options("SliceOptions"))
