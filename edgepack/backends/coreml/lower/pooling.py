"""MaxPool, AveragePool -> max_pool, avg_pool; the global pools -> reductions.

MIL's pools have no dilations, and what their ``ceil_mode`` counts is PyTorch's rule: neither is used. A window that reaches past the padded
input (ONNX ``ceil_mode``) is more padding at the end, and what a mean must not count is taken out by a constant factor.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.geometry import ATTRIBUTES, Window
from edgepack.backends.coreml.table import lowers, only, required, single_output
from edgepack.quantize.fold import Operation


def _window(operation: Operation) -> Window:
    """The window, padded at the end as far as it reaches (``ceil_mode``)."""
    window = _given(operation)
    return window.extended(window.overhang(required(operation, 0).shape[2:], operation.outputs[0].shape[2:]))


def _given(operation: Operation) -> Window:
    return Window.of(operation, required(operation, 0).shape[2:], tuple(operation.attributes["kernel_shape"]))


def _late_windows(operation: Operation) -> tuple[str, str] | None:
    """ONNX leaves out windows that start in the padding at the end; shape inference of onnx before that rule counts them."""
    x = required(operation, 0)
    if x.rank < _FEWEST:
        return "pools no spatial dimension", "use a 1-D pool"
    window = _given(operation)
    starts = zip(operation.outputs[0].shape[2:], window.strides, x.shape[2:], window.before, strict=True)
    if all((out - 1) * stride < size + before for out, stride, size, before in starts):
        return None
    return "has a window that starts behind the input, which onnx's shape counts and onnxruntime does not", "set ceil_mode to False"


# (N, C, one spatial dimension).
_FEWEST = 3
_FORMS = (only("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"), _late_windows)


@lowers("MaxPool", honours=ATTRIBUTES | {"ceil_mode", "storage_order"}, objects=(single_output, *_FORMS))
def max_pool(operation: Operation, emit: Emitter) -> Var:
    """ONNX MaxPool-12: padding never wins in either. The largest element of a dilated window is found an axis at a time."""
    window, x = _window(operation), emit.value(required(operation, 0))
    if not window.is_dilated:
        return _pool("max_pool", x, window, emit)
    for axis, out in enumerate(operation.outputs[0].shape[2:], start=2):
        x = _largest(x, window, axis, out, emit)
    return x


def _largest(x: Var, window: Window, axis: int, out: int, emit: Emitter) -> Var:
    """The largest of each dilated window along one axis: a strided slice for every tap, then their maximum."""
    at = axis - 2
    if window.before[at] or window.after[at]:
        widths = [0] * 2 * len(x.shape)
        widths[2 * axis : 2 * axis + 2] = window.before[at], window.after[at]
        x = emit("pad", x=x, pad=widths, mode="constant", constant_val=np.finfo(emit.dtype).min)
    starts = [tap * window.dilations[at] for tap in range(window.kernel[at])]
    return reduce(
        lambda best, tap: emit("maximum", x=best, y=tap), [_tap(x, axis, start, window.strides[at], out, emit) for start in starts]
    )


def _tap(x: Var, axis: int, start: int, stride: int, out: int, emit: Emitter) -> Var:
    """Element ``start`` of every window along ``axis``."""
    begin, end, strides = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
    begin[axis], end[axis], strides[axis] = start, start + (out - 1) * stride + 1, stride
    return emit("slice_by_index", x=x, begin=begin, end=end, stride=strides)


@lowers("AveragePool", honours=ATTRIBUTES | {"ceil_mode", "count_include_pad"}, objects=_FORMS)
def average_pool(operation: Operation, emit: Emitter) -> Var:
    """ONNX AveragePool-19; padding is left out of the mean unless ``count_include_pad``, what lies beyond it never counts.

    Where MIL's two ways of counting are not this one: the mean over the whole window, padding counted, times window / counted elements,
    a constant map. A dilated mean is a depthwise convolution.
    """
    window, x = _window(operation), emit.value(required(operation, 0))
    counts_padding = bool(operation.attributes.get("count_include_pad", 0))
    beyond = window.after != _given(operation).after
    if not window.is_dilated and not (counts_padding and beyond):
        return _pool("avg_pool", x, window, emit, exclude_padding_from_average=not counts_padding)
    mean = _dilated_mean(x, window, emit) if window.is_dilated else _pool("avg_pool", x, window, emit, exclude_padding_from_average=False)
    correction = np.prod(window.kernel) / _counted(operation, counts_padding)
    return mean if (correction == 1).all() else emit("mul", x=mean, y=emit.reals(correction, f"{operation.name} correction"))


def _dilated_mean(x: Var, window: Window, emit: Emitter) -> Var:
    """The mean of each window, padding counted as zeros."""
    channels = x.shape[1]
    weight = emit.reals(np.full((channels, 1, *window.kernel), 1 / np.prod(window.kernel)), "mean")
    return emit(
        "conv",
        x=x,
        weight=weight,
        strides=list(window.strides),
        dilations=list(window.dilations),
        groups=channels,
        pad_type="custom",
        pad=window.interleaved,
    )


def _counted(operation: Operation, counts_padding: bool) -> NDArray[np.float64]:
    """How many elements each window's mean divides by: (1, 1, out...). The count of a box is the product of its axes' counts."""
    given = _given(operation)
    counts = np.ones((1, 1))
    spatial = required(operation, 0).shape[2:]
    for at, (size, out) in enumerate(zip(spatial, operation.outputs[0].shape[2:], strict=True)):
        places = np.arange(out)[:, None] * given.strides[at] + np.arange(given.kernel[at]) * given.dilations[at] - given.before[at]
        low, high = (-given.before[at], size + given.after[at]) if counts_padding else (0, size)
        counts = counts[..., None] * np.maximum(((places >= low) & (places < high)).sum(axis=1), 1)
    return counts


def _pool(kind: str, x: Var, window: Window, emit: Emitter, **more: bool) -> Var:
    return emit(
        kind,
        x=x,
        kernel_sizes=list(window.kernel),
        strides=list(window.strides),
        pad_type="custom",
        pad=window.interleaved,
        **more,
    )


@lowers("GlobalAveragePool")
def global_average_pool(operation: Operation, emit: Emitter) -> Var:
    """ONNX GlobalAveragePool-1: the mean over all spatial dimensions, which are kept with size 1."""
    return _reduce_spatial("reduce_mean", operation, emit)


@lowers("GlobalMaxPool")
def global_max_pool(operation: Operation, emit: Emitter) -> Var:
    """ONNX GlobalMaxPool-1."""
    return _reduce_spatial("reduce_max", operation, emit)


def _reduce_spatial(kind: str, operation: Operation, emit: Emitter) -> Var:
    x = required(operation, 0)
    return emit(kind, x=emit.value(x), axes=list(range(2, x.rank)), keep_dims=True)
