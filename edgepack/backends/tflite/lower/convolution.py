"""Conv and ConvTranspose, one or two spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.tflite.emit import ACTIVATIONS, Emitter, is_integer, keeps_weight_codes
from edgepack.backends.tflite.layout import Layout, Shape
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import Refusal, constant_inputs, lowers, ranks
from edgepack.backends.tflite.window import WINDOW_ATTRIBUTES, Window, as_hub, as_image, image_output, padded, spatially, split_evenly
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
    objects=(ranks(3, 4),),
    integer=(constant_inputs(1, 2), symmetric_weights(0), bias_scale),
)
def convolution(operation: Operation, emit: Emitter) -> View:
    """ONNX Conv-11 -> CONV_2D with filters (O, kh, kw, I / group), or DEPTHWISE_CONV_2D with filters (1, kh, kw, O).

    Padding is SAME only where TFLite splits it as the hub does, else written out. Groups stay one CONV_2D: its kernels know them. A
    dynamic one keeps its filters as codes: a hybrid kernel, for which XNNPACK ranges each image as a whole (qd8). Filters of run time go
    to the builtin kernel.
    """
    operation = with_codes_of_channels(operation, 0)
    weight = operation.inputs[1]
    assert weight is not None
    window = Window.of(operation, weight.shape[2:])
    x = as_image(emit.take(operation.inputs[0]), emit)
    if not (window.is_valid or window.is_same_in(emit)):
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
    if weight.constant is None:
        moving = emit.reshaped(emit.take(weight), (*weight.shape[:2], *window.kernel))
        held = emit.ordered(moving, (1, 2, 3, 0) if is_depthwise else (0, 2, 3, 1))
        return View(held.tensor, Layout.plain(held.stored))
    square = weight.constant.reshape(*weight.shape[:2], *window.kernel)
    data = square.transpose(1, 2, 3, 0) if is_depthwise else square.transpose(0, 2, 3, 1)
    axis = 3 if is_depthwise else 0
    encoding = None if weight.encoding is None else replace(per_channel(weight.encoding, weight.shape[0]), axis=axis)
    return emit.weights(weight.name, np.ascontiguousarray(data), encoding, keeps_weight_codes(operation))


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
    if bias is not None and bias.constant is None:
        return emit.plain(emit.take(bias))
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


@dataclass(frozen=True)
class Spread:
    """The geometry of a transposed convolution, (height, width): every input element spreads a kernel, ``strides`` apart.

    Attributes:
        size: of the result. begin: how many elements of the whole, uncut result lie before it.
    """

    spatial: Shape
    strides: Shape
    extent: Shape
    begin: Shape
    size: Shape

    @classmethod
    def of(cls, operation: Operation, kernel: Sequence[int]) -> Spread:
        """ONNX ConvTranspose-11: the hub's output shape and the padding say everything; an ``output_shape`` is split into pads first."""
        window, size = Window.of(operation, kernel), spatially(operation.outputs[0].shape[2:], 1)
        held, whole = operation.attributes, []
        extra = spatially(held.get("output_padding") or [0], 0)
        for axis in window.axes:
            whole.append((window.spatial[axis] - 1) * window.strides[axis] + window.extent[axis] + extra[axis])
        auto_pad, begin = str(held.get("auto_pad", "NOTSET")), window.begin
        if held.get("output_shape") or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            cut = tuple(max(full - kept, 0) for full, kept in zip(whole, size, strict=True))
            begin, _ = split_evenly(cut, at_end=auto_pad == "SAME_UPPER")
        return cls(window.spatial, window.strides, window.extent, begin, size)

    @property
    def is_tflite_same(self) -> bool:
        """Whether TFLite's SAME begins at the same element: the padding of the convolution this is the transpose of."""
        totals = [
            max((size - 1) * stride + extent - out, 0)
            for size, stride, extent, out in zip(self.spatial, self.strides, self.extent, self.size, strict=True)
        ]
        fits = all(-(-out // stride) == size for out, stride, size in zip(self.size, self.strides, self.spatial, strict=True))
        return fits and self.begin == split_evenly(tuple(totals), at_end=True)[0]

    @property
    def reach(self) -> Shape:
        """Size of what the kernels cover."""
        return tuple((self.spatial[axis] - 1) * self.strides[axis] + self.extent[axis] for axis in (0, 1))

    @property
    def whole(self) -> Shape:
        """Size of the uncut result."""
        return tuple(max(self.reach[axis], self.begin[axis] + self.size[axis]) for axis in (0, 1))

    @property
    def has_kernel(self) -> bool:
        """Whether what lies beyond the reach of the kernels is less than a stride, all XNNPACK's deconvolution takes."""
        return all(self.whole[axis] - self.reach[axis] < self.strides[axis] for axis in (0, 1))


def _weight_has_the_inputs_rank(operation: Operation) -> Refusal:
    weight = operation.inputs[1]
    has = weight is not None and weight.rank == operation.outputs[0].rank
    return None if has else ("weight has another rank than the input", "check the model with onnx.checker")


def _is_grouped(operation: Operation) -> bool:
    return bool(operation.attributes.get("group", 1) != 1)


def _transposed_weights(operation: Operation) -> Refusal:
    return None if _is_grouped(operation) else symmetric_weights(1)(operation)


def _transposed_bias(operation: Operation) -> Refusal:
    return None if _is_grouped(operation) else bias_scale(operation)


@lowers(
    "ConvTranspose",
    honours=WINDOW_ATTRIBUTES | {"group", "output_padding", "output_shape"},
    objects=(ranks(3, 4), constant_inputs(1, 2), _weight_has_the_inputs_rank),
    integer=(_transposed_weights, _transposed_bias),
    in_float=_is_grouped,
)
def transposed_convolution(operation: Operation, emit: Emitter) -> View:
    """ONNX ConvTranspose-11, W (I, O / group, kh, kw) -> TRANSPOSE_CONV, SAME where TFLite cuts alike, else VALID and a SLICE.

    Its kernel knows no groups: those become the convolution that defines it, over an image with zeros between its elements.
    """
    operation = _with_symmetric_codes(operation, _output_axis(operation))
    weight = operation.inputs[1]
    assert weight is not None
    spread = Spread.of(operation, weight.shape[2:])
    x = as_image(emit.take(operation.inputs[0]), emit)
    group = int(operation.attributes.get("group", 1))
    has_kernel = group == 1 and spread.has_kernel
    result = _spread(operation, emit, x, spread) if has_kernel else _stuffed_convolution(operation, emit, x, spread, group)
    return as_hub(result, operation, emit)


def _output_axis(operation: Operation) -> int:
    """Where (I, O / group, kh, kw) tells output channels apart: axis 0 with one of them a group, else axis 1, which the groups share."""
    weight = operation.inputs[1]
    assert weight is not None
    return 0 if weight.shape[1] == 1 and weight.shape[0] == int(operation.attributes.get("group", 1)) else 1


def with_codes_of_channels(operation: Operation, axis: int) -> Operation:
    """The weight as reals where its codes suit no hybrid kernel, nor a DEQUANTIZE with scales along ``axis``."""
    weight = operation.inputs[1]
    is_whole = weight is not None and weight.encoding is not None and weight.encoding.scale.size == 1
    return operation if is_whole and not operation.dynamic else _with_symmetric_codes(operation, axis)


def _with_symmetric_codes(operation: Operation, axis: int) -> Operation:
    """The weight as reals where its codes have a zero point or scales along another axis: zeros must be code 0, scales the output's.

    Args:
        axis: of the weight along which output channels lie.
    """
    weight = operation.inputs[1]
    if weight is None or weight.encoding is None or symmetric_weights(axis)(operation) is None:
        return operation
    real = replace(weight, constant=weight.real(), encoding=None)
    return replace(operation, inputs=(operation.inputs[0], real, *operation.inputs[2:]))


def _spread(operation: Operation, emit: Emitter, x: View, spread: Spread) -> View:
    weight = operation.inputs[1]
    assert weight is not None and weight.constant is not None
    channels, is_same = weight.shape[1], spread.is_tflite_same
    whole = spread.size if is_same else spread.whole
    filters = _kept(operation, emit, weight, _dilated(weight, operation).transpose(1, 2, 3, 0), 0, channels)
    shape = (x.stored[0], *whole, channels)
    inputs = [emit.indices("output_shape", shape), filters, x, bias_of(operation, emit, channels)]
    fields = {
        "padding": "SAME" if is_same else "VALID",
        "strideH": spread.strides[0],
        "strideW": spread.strides[1],
        "fusedActivationFunction": "NONE",
    }
    full = emit.run("TRANSPOSE_CONV", inputs, image_output(operation, emit, shape), Options("TransposeConvOptions", fields))
    return full if is_same else _within(full, spread.begin, spread.size, emit)


def _dilated(weight: Operand, operation: Operation) -> NDArray[Any]:
    """The weight (I, O / group, kh, kw), its codes where it has them, with the zeros of a dilation between its elements."""
    assert weight.constant is not None
    window = Window.of(operation, weight.shape[2:])
    spaced = np.zeros((*weight.shape[:2], *window.extent), weight.constant.dtype)
    spaced[:, :, :: window.dilations[0], :: window.dilations[1]] = weight.constant.reshape(*weight.shape[:2], *window.kernel)
    return spaced


def _kept(operation: Operation, emit: Emitter, weight: Operand, filters: NDArray[Any], axis: int, channels: int) -> View:
    """Filters in stored order; codes stay codes, with one scale for each output channel along ``axis``, the same ones in every group."""
    data, encoding = np.ascontiguousarray(filters), None
    if weight.encoding is not None:
        each = np.resize(weight.encoding.scale.ravel(), channels).astype(np.float32)
        encoding = Encoding(each, np.zeros(channels, np.int8), "int8", axis)
    return emit.weights(weight.name, data, encoding, is_integer(operation))


def _stuffed_convolution(operation: Operation, emit: Emitter, x: View, spread: Spread, group: int) -> View:
    """CONV_2D or DEPTHWISE_CONV_2D with the kernel turned round, over the image spread apart by zeros."""
    weight = operation.inputs[1]
    assert weight is not None and weight.constant is not None
    window = Window.of(operation, weight.shape[2:])
    channels, each = group * weight.shape[1], weight.shape[0] // group
    spaced = _zero_stuffed(x, spread.strides, emit)
    before = tuple(extent - 1 - begin for extent, begin in zip(spread.extent, spread.begin, strict=True))
    needed = tuple(size + extent - 1 for size, extent in zip(spread.size, spread.extent, strict=True))
    source = _within(spaced, tuple(-held for held in before), needed, emit)
    turned = weight.constant.reshape(group, each, weight.shape[1], *window.kernel)[..., ::-1, ::-1]
    is_depthwise = each == 1
    order = (1, 3, 4, 0, 2) if is_depthwise else (0, 2, 3, 4, 1)
    shape = (1, *window.kernel, channels) if is_depthwise else (channels, *window.kernel, each)
    filters = _kept(operation, emit, weight, turned.transpose(order).reshape(shape), 3 if is_depthwise else 0, channels)
    options = _options(replace(window.without_padding(), strides=(1, 1)), "", weight.shape[1] if is_depthwise else 0)
    output = image_output(operation, emit, (x.stored[0], *spread.size, channels))
    name = "DEPTHWISE_CONV_2D" if is_depthwise else "CONV_2D"
    return emit.run(name, [source, filters, bias_of(operation, emit, channels)], output, options)


def _zero_stuffed(image: View, strides: Shape, emit: Emitter) -> View:
    """``stride`` - 1 zeros after every element: padding beside it, then two axes read as one."""
    batch, height, width, channels = image.stored
    if strides[1] > 1:
        deep = _within(image, (0, 0), (height, width), emit, channels * strides[1])
        image = emit.reread(deep, Layout.plain((batch, height, width * strides[1], channels)))
    if strides[0] > 1:
        row = width * strides[1] * channels
        flat = emit.reread(image, Layout.plain((batch, height, 1, row)))
        wide = _within(flat, (0, 0), (height, strides[0]), emit)
        image = emit.reread(wide, Layout.plain((batch, height * strides[0], width * strides[1], channels)))
    return image


def _within(image: View, begin: Shape, size: Shape, emit: Emitter, channels: int = 0) -> View:
    """``size`` elements of an image from ``begin`` on, zeros where that lies outside; with so many ``channels``, the last of them zeros."""
    wanted = (image.stored[0], *size, channels or image.stored[3])
    first, sizes = (0, *begin, 0), image.stored
    low = [max(start, 0) for start in first]
    kept = [min(start + count, held) - below for start, count, held, below in zip(first, wanted, sizes, low, strict=True)]
    if tuple(kept) != sizes:
        inputs = [image, emit.indices("begin", low), emit.indices("size", kept)]
        image = emit.run("SLICE", inputs, emit.like(image, Layout.plain(tuple(kept)), "cut"), Options("SliceOptions"))
    before = [max(-start, 0) for start in first]
    table = [(pad, count - held - pad) for pad, count, held in zip(before, wanted, kept, strict=True)]
    if not np.any(table):
        return image
    paddings = emit.constant("paddings", np.asarray(table, np.int64))
    return emit.run("PAD", [image, paddings], emit.like(image, Layout.plain(wanted), "padded"), Options("PadOptions"))
