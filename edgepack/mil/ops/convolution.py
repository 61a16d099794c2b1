"""conv and conv_transpose (coremltools iOS15/conv.py, iOS17/conv.py) over (N, C, spatial...)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements
from edgepack.mil.ops.window import Window, Windows

# From the padded input and its windows to the sums without bias.
Convolve = Callable[[Array, Windows], Array]

_ACCEPTS = ("x", "weight", "bias", "strides", "pad_type", "pad", "dilations", "groups")


@implements("conv", accepts=_ACCEPTS)
def conv(operation: MilOperation) -> Kernel:
    """1-, 2- or 3-D convolution with groups and dilations; weight (C_out, C_in / groups, kernel...), bias (C_out,).

    A constant weight is laid out once; one computed at run time at every run.
    """
    (groups,) = operation.integers("groups", (1,))
    bias = _bias(operation)

    def prepared(weight: Array) -> tuple[Window, Convolve]:
        wide = weight.astype(np.float32, copy=False)
        return Window.of(operation, weight.shape[2:]), _depthwise(wide) if groups > 1 == weight.shape[1] else _general(wide, groups)

    held = None if "weight" in operation.inputs else prepared(operation.array("weight"))

    def kernel(x: Array, weight: Array) -> Array:
        window, convolve = held or prepared(weight)
        windows = window.over(x.shape[2:])
        found = convolve(windows.padded(x, 0), windows)
        return _shifted(found, bias)

    return operation.bind(("x", "weight"), kernel)


def _bias(operation: MilOperation) -> Array | None:
    """The bias as (C_out, 1, ...), None when there is none."""
    if not operation.has("bias"):
        return None
    return operation.array("bias").astype(np.float32, copy=False).reshape(-1, *[1] * (operation.outputs[0].rank - 2))


def _shifted(sums: Array, bias: Array | None) -> Array:
    """``sums + bias`` in the memory of ``sums``."""
    return sums if bias is None else np.add(sums, bias, out=sums)


def _general(weight: Array, groups: int) -> Convolve:
    """Windows as columns, then one matrix product a group."""
    matrix = np.ascontiguousarray(weight.reshape(groups, weight.shape[0] // groups, -1))

    def convolve(padded: Array, windows: Windows) -> Array:
        columns = padded.reshape(*padded.shape[:2], -1) if windows.is_pointwise else windows.columns(padded)
        grouped = columns.reshape(columns.shape[0], groups, matrix.shape[2], columns.shape[-1])
        return np.asarray(np.matmul(matrix, grouped)).reshape(len(padded), -1, *windows.out)

    return convolve


def _depthwise(weight: Array) -> Convolve:
    """One multiply-add a kernel element over all channels at once: every input channel is its own group, of one or more outputs."""
    taps = np.ascontiguousarray(weight.reshape(weight.shape[0], -1).T).reshape(-1, weight.shape[0], *[1] * (weight.ndim - 2))

    def convolve(padded: Array, windows: Windows) -> Array:
        outputs = len(weight) // padded.shape[1]
        spread = padded if outputs == 1 else padded.repeat(outputs, axis=1)
        sums = np.zeros((len(padded), len(weight), *windows.out), np.float32)
        products = np.empty_like(sums)
        for part, tap in zip(windows.taps(spread), taps, strict=True):
            sums += np.multiply(part, tap, out=products)
        return sums

    return convolve


@implements("conv_transpose", accepts=(*_ACCEPTS, "output_shape"))
def conv_transpose(operation: MilOperation) -> Kernel:
    """The gradient of ``conv``: every input element adds its multiple of the kernel to the output; ``pad`` is cut off its edges.

    Weight (C_in, C_out / groups, kernel...), bias (C_out,). ``output_shape`` takes more or less of the end. "same" gives
    size * stride, and cuts the larger half at the end, as the padding of ``conv`` does that it undoes.
    """
    weight = operation.array("weight").astype(np.float32, copy=False)
    window = Window.of(operation, weight.shape[2:])
    if window.kind == "same_lower":
        raise operation.refusal("has pad_type same_lower")
    (groups,) = operation.integers("groups", (1,))
    bias, given = _bias(operation), operation.integers("output_shape", ())[2:]

    def kernel(x: Array) -> Array:
        whole = _scattered(x, weight, groups, window)
        starts, sizes = _kept(window, x.shape[2:], whole.shape[2:], given)
        missing = [max(start + size - held, 0) for start, size, held in zip(starts, sizes, whole.shape[2:], strict=True)]
        if any(missing):
            whole = np.pad(whole, [(0, 0), (0, 0), *((0, size) for size in missing)])
        cut = tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
        return _shifted(np.ascontiguousarray(whole[(slice(None), slice(None), *cut)]), bias)

    return operation.bind(("x",), kernel)


def _kept(window: Window, sizes: Sequence[int], whole: Sequence[int], given: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Where the result starts in what was scattered, and its sizes."""
    if window.kind == "same":
        kept = given or [size * stride for size, stride in zip(sizes, window.strides, strict=True)]
        return [max(held - size, 0) // 2 for held, size in zip(whole, kept, strict=True)], kept
    ends = zip(whole, window.before, window.after, strict=True)
    return window.before, given or [held - before - after for held, before, after in ends]


def _scattered(x: Array, weight: Array, groups: int, window: Window) -> Array:
    """The whole result, before anything is cut: (N, C_out, (in - 1) * stride + (kernel - 1) * dilation + 1, ...)."""
    batch, channels, *sizes = x.shape
    kernel, strides, dilations = window.kernel, window.strides, window.dilations
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
