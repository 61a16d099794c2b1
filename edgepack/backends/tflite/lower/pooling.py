"""MaxPool, AveragePool and their global forms, one or two spatial axes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.tflite.emit import ACTIVATIONS, Emitter, arithmetic
from edgepack.backends.tflite.lower.reduce import reduced
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import Refusal, always, attribute_is, equal_encodings, lowers, ranks
from edgepack.backends.tflite.window import WINDOW_ATTRIBUTES, Window, as_hub, as_image, image_output, padded
from edgepack.quantize.fold import Operation


def _window(operation: Operation) -> Window:
    return Window.of(operation, operation.attributes["kernel_shape"])


def _dilation_is_one(operation: Operation) -> Refusal:
    if all(step == 1 for step in operation.attributes.get("dilations") or ()):
        return None
    return "a dilated pool has no kernel", "use dilation 1"


def _one_output(operation: Operation) -> Refusal:
    return None if len(operation.outputs) == 1 else ("the indices output has no kernel", "drop return_indices")


def _window_fits(operation: Operation) -> Refusal:
    window = _window(operation)
    if all(window.begin[i] < window.kernel[i] and window.end[i] < window.kernel[i] for i in (0, 1)):
        return None
    return "a window lies in the padding alone", "use pads smaller than the kernel"


@lowers(
    "MaxPool",
    honours=WINDOW_ATTRIBUTES | {"ceil_mode", "storage_order"},
    objects=(ranks(3, 4), attribute_is("ceil_mode", 0), _dilation_is_one, _one_output, _window_fits),
    integer=(equal_encodings,),
)
def max_pool(operation: Operation, emit: Emitter) -> View:
    """ONNX MaxPool-12 -> MAX_POOL_2D. Padding that TFLite splits otherwise is written out with the lowest number."""
    x, window = as_image(emit.take(operation.inputs[0]), emit), _window(operation)
    if not (window.is_valid or window.is_tflite_same):
        x, window = padded(x, window, emit, _lowest(x, emit)), window.without_padding()
    return as_hub(_pool("MAX_POOL_2D", operation, emit, x, window, operation.activation), operation, emit)


def _lowest(x: View, emit: Emitter) -> View | None:
    """What never wins a maximum; None when plain zeros will do, because nothing is below them."""
    if x.encoding is not None:
        return None if int(x.encoding.zero_point) == -128 else emit.constant("lowest", np.asarray(-128, np.int8), x.encoding)
    return None if x.non_negative else emit.constant("lowest", np.asarray(np.finfo(np.float32).min))


@lowers(
    "AveragePool",
    honours=WINDOW_ATTRIBUTES | {"ceil_mode", "count_include_pad"},
    objects=(ranks(3, 4), attribute_is("ceil_mode", 0), _dilation_is_one, _window_fits),
    integer=(equal_encodings,),
    in_float=always,
)
def average_pool(operation: Operation, emit: Emitter) -> View:
    """ONNX AveragePool-19 -> AVERAGE_POOL_2D.

    TFLite's SAME splits odd padding its own way and never counts it, so any other padding is written out: pad with zeros, pool VALID, then
    scale by window / valid count, a constant map. ``ceil_mode`` is refused: its overhang leaves the divisor, which no kernel expresses.
    """
    x, window = as_image(emit.take(operation.inputs[0]), emit), _window(operation)
    counts = bool(operation.attributes.get("count_include_pad", 0))
    if window.is_valid or (window.is_tflite_same and not counts):
        return as_hub(_pool("AVERAGE_POOL_2D", operation, emit, x, window, operation.activation), operation, emit)
    inside = window.without_padding()
    if counts:
        return as_hub(_pool("AVERAGE_POOL_2D", operation, emit, padded(x, window, emit), inside, operation.activation), operation, emit)
    pooled = _pool("AVERAGE_POOL_2D", operation, emit, padded(x, window, emit), inside, "")
    divisor = emit.constant("window_over_count", _window_over_count(window))
    output = emit.like(pooled, pooled.layout, "corrected")
    return as_hub(emit.run("MUL", [pooled, divisor], output, arithmetic("MUL", operation.activation)), operation, emit)


def _pool(name: str, operation: Operation, emit: Emitter, x: View, window: Window, activation: str) -> View:
    fields = {
        "padding": window.padding,
        "strideH": window.strides[0],
        "strideW": window.strides[1],
        "filterHeight": window.kernel[0],
        "filterWidth": window.kernel[1],
        "fusedActivationFunction": ACTIVATIONS[activation],
    }
    shape = (x.stored[0], *window.output, x.stored[3])
    return emit.run(name, [x], image_output(operation, emit, shape, activation), Options("Pool2DOptions", fields))


def _window_over_count(window: Window) -> NDArray[np.float32]:
    """For each output, window size over the elements inside the image; shape (1, H, W, 1)."""
    counts = [_valid_counts(window, axis) for axis in (0, 1)]
    area = np.multiply.outer(counts[0], counts[1])
    return (window.kernel[0] * window.kernel[1] / area).astype(np.float32)[None, :, :, None]


def _valid_counts(window: Window, axis: int) -> NDArray[np.int64]:
    first = np.arange(window.output[axis]) * window.strides[axis] - window.begin[axis]
    last = first + window.kernel[axis]
    return np.minimum(last, window.spatial[axis]) - np.maximum(first, 0)


@lowers("GlobalAveragePool", objects=(ranks(3, 4),), integer=())
def global_average_pool(operation: Operation, emit: Emitter) -> View:
    """ONNX GlobalAveragePool-1 -> MEAN over the spatial axes."""
    x = emit.take(operation.inputs[0])
    return reduced("MEAN", operation, emit, x, tuple(range(2, len(x.shape))), keeps=True)


@lowers("GlobalMaxPool", objects=(ranks(3, 4),), integer=(equal_encodings,))
def global_max_pool(operation: Operation, emit: Emitter) -> View:
    """ONNX GlobalMaxPool-1 -> REDUCE_MAX over the spatial axes."""
    x = emit.take(operation.inputs[0])
    return reduced("REDUCE_MAX", operation, emit, x, tuple(range(2, len(x.shape))), keeps=True)
