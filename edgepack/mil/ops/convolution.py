"""conv and conv_transpose (coremltools iOS15/conv.py) over (N, C, spatial...) with constant weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

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
        found = convolve(window.over(x.shape[2:]).padded(x, 0))
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


@implements("conv_transpose", accepts=_ACCEPTS)
def conv_transpose(operation: MilOperation) -> Kernel:
    """The gradient of ``conv``: every input element adds its multiple of the kernel to the output; ``pad`` is cut off its edges.

    Weight (C_in, C_out / groups, kernel...), bias (C_out,).
    """
    weight = operation.array("weight").astype(np.float32, copy=False)
    ones = (1,) * (weight.ndim - 2)
    kind = operation.text("pad_type", "valid")
    if kind not in ("valid", "custom"):
        raise operation.refusal(f"has pad_type {kind}")
    before = operation.integers("pad", (0, 0) * len(ones))[::2] if kind == "custom" else (0,) * len(ones)
    strides, dilations = operation.integers("strides", ones), operation.integers("dilations", ones)
    (groups,) = operation.integers("groups", (1,))
    shape = operation.outputs[0].shape
    cut = (slice(None), slice(None), *(slice(start, start + size) for start, size in zip(before, shape[2:], strict=True)))
    bias = operation.array("bias").reshape(-1, *ones) if "bias" in operation.constants else None

    def kernel(x: Array) -> Array:
        found = _scattered(x, weight, groups, strides, dilations)[cut]
        return found if bias is None else found + bias

    return operation.bind(("x",), kernel)


def _scattered(x: Array, weight: Array, groups: int, strides: tuple[int, ...], dilations: tuple[int, ...]) -> Array:
    """The whole result, before anything is cut: (N, C_out, (in - 1) * stride + (kernel - 1) * dilation + 1, ...)."""
    batch, channels, *sizes = x.shape
    kernel = weight.shape[2:]
    spans = [(size - 1) * stride for size, stride in zip(sizes, strides, strict=True)]
    reach = [span + (taps - 1) * dilation + 1 for span, taps, dilation in zip(spans, kernel, dilations, strict=True)]
    matrices = weight.reshape(groups, channels // groups, weight.shape[1], -1).swapaxes(1, 2)
    columns = x.reshape(batch, groups, channels // groups, -1)
    whole = np.zeros((batch, groups * weight.shape[1], *reach), np.float32)
    for tap, place in enumerate(product(*map(range, kernel))):
        part = np.matmul(matrices[..., tap], columns).reshape(batch, -1, *sizes)
        starts = [at * dilation for at, dilation in zip(place, dilations, strict=True)]
        index = [slice(start, start + span + 1, stride) for start, span, stride in zip(starts, spans, strides, strict=True)]
        whole[(slice(None), slice(None), *index)] += part
    return whole
