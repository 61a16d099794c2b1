"""conv (coremltools iOS15/conv.py): cross-correlation of (N, C, spatial...) with constant weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements
from edgepack.mil.ops.window import Window

# From the padded input to the sums without bias.
Convolve = Callable[[Array], Array]

_ACCEPTS = ("x", "weight", "bias", "strides", "pad_type", "pad", "dilations", "groups")


@implements("conv", accepts=_ACCEPTS)
def conv(operation: MilOperation) -> Kernel:
    """1-, 2- or 3-D convolution with groups and dilations; weight (C_out, C_in / groups, kernel...), bias (C_out,)."""
    weight = operation.array("weight").astype(np.float32, copy=False)
    window = Window.of(operation, weight.shape[2:])
    (groups,) = operation.integers("groups", (1,))
    shape = operation.outputs[0].shape
    bias = operation.array("bias").reshape(-1, *[1] * (len(shape) - 2)) if "bias" in operation.constants else None
    is_depthwise = weight.shape[1] == 1 and weight.shape[0] == groups > 1
    convolve = _depthwise(window, weight) if is_depthwise else _general(window, weight, groups, shape)

    def kernel(x: Array) -> Array:
        found = convolve(window.padded(x, 0))
        return found if bias is None else found + bias

    return operation.bind(("x",), kernel)


def _general(window: Window, weight: Array, groups: int, shape: tuple[int, ...]) -> Convolve:
    """Windows as columns, then one matrix product a group."""
    matrix = np.ascontiguousarray(weight.reshape(groups, weight.shape[0] // groups, -1))

    def convolve(padded: Array) -> Array:
        columns = padded.reshape(*padded.shape[:2], -1) if window.is_pointwise else window.columns(padded)
        grouped = columns.reshape(columns.shape[0], groups, -1, columns.shape[-1])
        return np.asarray(np.matmul(matrix, grouped)).reshape(shape)

    return convolve


def _depthwise(window: Window, weight: Array) -> Convolve:
    """One multiply-add a kernel element: every channel is its own group."""
    taps = [np.ascontiguousarray(tap) for tap in weight.reshape(weight.shape[0], -1).T]
    ones = [1] * len(window.kernel)

    def convolve(padded: Array) -> Array:
        return np.asarray(sum(part * tap.reshape(-1, *ones) for part, tap in zip(window.taps(padded), taps, strict=True)))

    return convolve
