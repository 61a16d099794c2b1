"""MaxPool, AveragePool and their global forms, one to three spatial axes.

A pool over two axes without dilation is a kernel of its own. Any other is taken apart: what a window reads first, second, ... along one
axis is a strided slice of the padded image, and a maximum or a sum over a window is one over its rows, then one over its columns.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.tflite.emit import ACTIVATIONS, Emitter, arithmetic
from edgepack.backends.tflite.layout import Layout
from edgepack.backends.tflite.lower.reduce import reduced
from edgepack.backends.tflite.lower.selection import MOST_PARTS, picked
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import Refusal, always, equal_encodings, lowers, ranks
from edgepack.backends.tflite.window import WINDOW_ATTRIBUTES, Window, as_hub, as_image, image_output, padded, spatially
from edgepack.quantize.fold import Operand, Operation


def _window(operation: Operation) -> Window:
    return Window.of(operation, operation.attributes["kernel_shape"])


def _reaching(operation: Operation) -> Window:
    """The window with the padding at the end that the hub's output takes, ``ceil_mode`` included."""
    return _window(operation).reaching(operation.outputs[0].shape[2:])


def _windows_read_the_image(operation: Operation) -> Refusal:
    """Every window holds an element of the image, and the output has the size its window gives it."""
    sizes = operation.outputs[0].shape[2:]
    if _reaching(operation).output != spatially(sizes, 1):
        return "ceil_mode leaves out a window that floor would keep", "use pads smaller than the kernel"
    if all(counts.all() for counts in _window(operation).counts(sizes, False)):
        return None
    return "a window lies in the padding alone", "use pads smaller than the kernel"


def _padding_is_clear(operation: Operation) -> Refusal:
    """Under SAME onnxruntime leaves dilations out and pads by less than nothing where strides exceed the window; ONNX does not."""
    window = _window(operation)
    is_clear = not window.is_dilated and all(window.strides[axis] <= window.extent[axis] for axis in window.axes)
    if is_clear or not str(operation.attributes.get("auto_pad", "NOTSET")).startswith("SAME"):
        return None
    return "auto_pad of a dilated or sparse window means one thing in the specification, another in onnxruntime", "write pads out"


def _is_native(window: Window) -> bool:
    return len(window.spatial) == 2 and not window.is_dilated


_HONOURS = WINDOW_ATTRIBUTES | {"ceil_mode"}


def _codes_have_no_indices(operation: Operation) -> Refusal:
    return None if len(operation.outputs) == 1 else ("the indices of codes have no kernel", "leave this node float (placement)")


@lowers(
    "MaxPool",
    honours=_HONOURS | {"storage_order"},
    objects=(ranks(3, 4, 5), _padding_is_clear, _windows_read_the_image),
    integer=(equal_encodings, _codes_have_no_indices),
)
def max_pool(operation: Operation, emit: Emitter) -> View | list[View]:
    """ONNX MaxPool-22 -> MAX_POOL_2D. Padding that TFLite splits otherwise is written out with the lowest number."""
    x, window = as_image(emit.take(operation.inputs[0]), emit), _reaching(operation)
    has_indices = len(operation.outputs) > 1
    if not (_is_native(window) and not has_indices and window.is_same_in(emit)):
        x, window = _padded_for_maximum(x, window, emit), window.without_padding()
    if has_indices:
        return _maximum_and_where(operation, emit, x, window)
    if _is_native(window):
        return as_hub(_pool("MAX_POOL_2D", operation, emit, x, window, operation.activation), operation, emit)
    return as_hub(_activated(_by_axis("MAXIMUM", emit, x, window), operation, emit), operation, emit)


def _padded_for_maximum(x: View, window: Window, emit: Emitter) -> View:
    """The image with padding that never wins a maximum: the lowest number, or its own edge.

    Delegates take no PADV2 of codes. A window without gaps that reaches past an edge holds the element at that edge, so repeating it
    changes no maximum.
    """
    lowest = _lowest(x, emit)
    pads = list(zip(window.begin, window.end, strict=True))
    if lowest is None or x.encoding is None or window.is_dilated or max(map(sum, pads)) >= MOST_PARTS:
        return padded(x, window, emit, lowest)
    for axis, pair in enumerate(pads, 1):
        if any(pair):
            x = picked(x, axis, np.pad(np.arange(x.shape[axis]), pair, "edge"), emit)
    return x


def _lowest(x: View, emit: Emitter) -> View | None:
    """What never wins a maximum; None when plain zeros will do, because nothing is below them."""
    if x.encoding is not None:
        return None if int(x.encoding.zero_point) == -128 else emit.constant("lowest", np.full(1, -128, np.int8), x.encoding)
    return None if x.non_negative else emit.constant("lowest", np.full(1, np.finfo(np.float32).min))


def _activated(view: View, operation: Operation, emit: Emitter) -> View:
    return emit.unary(ACTIVATIONS[operation.activation], view) if operation.activation else view


def _by_axis(name: str, emit: Emitter, x: View, window: Window) -> View:
    """A maximum or sum over windows without padding, one spatial axis after the other."""
    for axis in window.axes:
        shape = tuple(window.output[axis] if held == axis + 1 else size for held, size in enumerate(x.stored))
        begins = [index * window.dilations[axis] for index in range(window.kernel[axis])]
        taps = [_tap(emit, x, shape, {axis + 1: (begin, window.strides[axis])}) for begin in begins]
        x = reduce(lambda total, tap: emit.binary(name, total, tap), taps)
    return x


def _tap(emit: Emitter, x: View, shape: Sequence[int], ranges: dict[int, tuple[int, int]]) -> View:
    """``shape`` elements of ``x``, along the stored axes of ``ranges`` from a first one on in steps."""
    begins = [ranges.get(axis, (0, 1))[0] for axis in range(len(shape))]
    steps = [ranges.get(axis, (0, 1))[1] for axis in range(len(shape))]
    output = emit.like(x, Layout.plain(tuple(shape)), "tap")
    if all(step == 1 for step in steps):
        return emit.run("SLICE", [x, emit.indices("begin", begins), emit.indices("size", shape)], output, Options("SliceOptions"))
    ends = [begin + step * (count - 1) + 1 for begin, step, count in zip(begins, steps, shape, strict=True)]
    inputs = [x, emit.indices("begin", begins), emit.indices("end", ends), emit.indices("strides", steps)]
    fields = {"beginMask": 0, "endMask": 0, "ellipsisMask": 0, "newAxisMask": 0, "shrinkAxisMask": 0}
    return emit.run("STRIDED_SLICE", inputs, output, Options("StridedSliceOptions", fields))


def _maximum_and_where(operation: Operation, emit: Emitter, x: View, window: Window) -> list[View]:
    """The maximum of every window and its index in the flattened hub input, the first of equals: one comparison an element of a window.

    Args:
        x: the padded image.
    """
    shape = (x.stored[0], *window.output, x.stored[-1])
    weights = _index_weights(operation)
    best, offset = None, emit.constant("offset", np.zeros((1,) * len(shape), np.int32))
    for position in itertools.product(*map(range, window.kernel)):
        reads = [index * dilation for index, dilation in zip(position, window.dilations, strict=True)]
        ranges = {axis + 1: (read, window.strides[axis]) for axis, read in enumerate(reads)}
        tap = _tap(emit, x, shape, ranges)
        best, offset = _better(emit, best, offset, tap, int(np.dot(reads, weights)))
    assert best is not None
    first = emit.constant("first", _first_index(operation, shape, weights))
    where = emit.run("ADD", [offset, first], _like_indices(emit, shape), arithmetic("ADD"))
    whole = replace(operation, outputs=operation.outputs[1:])
    return [as_hub(_activated(best, operation, emit), operation, emit), as_hub(where, whole, emit)]


def _better(emit: Emitter, best: View | None, offset: View, tap: View, here: int) -> tuple[View, View]:
    """The larger of the best so far and a tap, and how far from the window's first element it lies."""
    if best is None:
        return tap, offset
    wins = emit.truth("GREATER", tap, best)
    held = emit.constant("offset", np.full((1,) * len(tap.stored), here, np.int32))
    chosen = emit.run("SELECT_V2", [wins, held, offset], _like_indices(emit, tap.stored), Options("SelectV2Options"))
    return emit.binary("MAXIMUM", best, tap), chosen


def _like_indices(emit: Emitter, shape: Sequence[int]) -> View:
    layout = Layout.plain(tuple(shape))
    return emit.output(Operand("indices", layout.shape, "int32"), layout)


def _index_weights(operation: Operation) -> list[int]:
    """How far apart in the flattened hub input the neighbours along each spatial axis lie; ``storage_order`` 1 turns the axes round."""
    sizes = list(_window(operation).spatial)
    if operation.attributes.get("storage_order", 0):
        return [math.prod(sizes[:axis]) for axis in range(len(sizes))]
    return [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]


def _first_index(operation: Operation, shape: Sequence[int], weights: Sequence[int]) -> NDArray[np.int32]:
    """For each output (N, H, W, C) the flattened hub index of its window's first element, which padding may put outside."""
    window = _window(operation)
    area = math.prod(window.spatial)
    steps = [area * shape[-1], *(weight * stride for weight, stride in zip(weights, window.strides, strict=True)), area]
    start = -int(np.dot(window.begin, weights))
    places = np.indices(tuple(shape)).astype(np.int64)
    return (start + np.tensordot(np.asarray(steps), places, axes=1)).astype(np.int32)


@lowers(
    "AveragePool",
    honours=_HONOURS | {"count_include_pad"},
    objects=(ranks(3, 4, 5), _padding_is_clear, _windows_read_the_image),
    integer=(equal_encodings,),
    in_float=always,
)
def average_pool(operation: Operation, emit: Emitter) -> View:
    """ONNX AveragePool-22 -> AVERAGE_POOL_2D.

    TFLite's SAME splits odd padding its own way and never counts it, so any other padding is written out: pad with zeros, pool VALID, then
    scale by window / count, a constant map: padding counts with ``count_include_pad``, the overhang of ``ceil_mode`` never.
    """
    x, window = as_image(emit.take(operation.inputs[0]), emit), _reaching(operation)
    counts_padding = bool(operation.attributes.get("count_include_pad", 0))
    if _is_native(window) and (window.is_valid or (window.is_same_in(emit) and not counts_padding)):
        return as_hub(_pool("AVERAGE_POOL_2D", operation, emit, x, window, operation.activation), operation, emit)
    inside, source = window.without_padding(), padded(x, window, emit)
    counts = _window(operation).counts(operation.outputs[0].shape[2:], counts_padding)
    if not _is_native(window):
        return as_hub(_scaled(operation, emit, _by_axis("ADD", emit, source, inside), 1, counts), operation, emit)
    area = math.prod(window.kernel)
    if all((held == size).all() for held, size in zip(counts, window.kernel, strict=True)):
        return as_hub(_pool("AVERAGE_POOL_2D", operation, emit, source, inside, operation.activation), operation, emit)
    return as_hub(_scaled(operation, emit, _pool("AVERAGE_POOL_2D", operation, emit, source, inside, ""), area, counts), operation, emit)


def _scaled(operation: Operation, emit: Emitter, pooled: View, numerator: int, counts: Sequence[NDArray[np.int64]]) -> View:
    """``pooled`` times numerator / elements counted, a constant (1, H, W, 1)."""
    area = reduce(np.multiply.outer, counts)
    factor = emit.constant("numerator_over_count", (numerator / area).astype(np.float32)[None, ..., None])
    output = emit.like(pooled, pooled.layout, "corrected")
    return emit.run("MUL", [pooled, factor], output, arithmetic("MUL", operation.activation))


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


@lowers("GlobalAveragePool", objects=(ranks(3, 4, 5),), integer=())
def global_average_pool(operation: Operation, emit: Emitter) -> View:
    """ONNX GlobalAveragePool-1 -> MEAN over the spatial axes."""
    x = emit.take(operation.inputs[0])
    return reduced("MEAN", operation, emit, x, tuple(range(2, len(x.shape))), keeps=True)


@lowers("GlobalMaxPool", objects=(ranks(3, 4, 5),), integer=(equal_encodings,))
def global_max_pool(operation: Operation, emit: Emitter) -> View:
    """ONNX GlobalMaxPool-1 -> REDUCE_MAX over the spatial axes."""
    x = emit.take(operation.inputs[0])
    return reduced("REDUCE_MAX", operation, emit, x, tuple(range(2, len(x.shape))), keeps=True)
