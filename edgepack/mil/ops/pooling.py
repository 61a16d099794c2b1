"""max_pool and avg_pool (coremltools iOS15/pool.py) over (N, C, spatial...)."""

from __future__ import annotations

import functools

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements
from edgepack.mil.ops.window import Window

_ACCEPTS = ("x", "kernel_sizes", "strides", "pad_type", "pad", "ceil_mode")


@implements("max_pool", accepts=_ACCEPTS)
def max_pool(operation: MilOperation) -> Kernel:
    """The largest element of each window; padding never wins."""
    window = Window.of(operation, operation.integers("kernel_sizes", ()))

    def kernel(x: Array) -> Array:
        return np.asarray(functools.reduce(np.maximum, window.taps(window.over(x.shape[2:]).padded(x, -np.inf))))

    return operation.bind(("x",), kernel)


@implements("avg_pool", accepts=(*_ACCEPTS, "exclude_padding_from_average"))
def avg_pool(operation: MilOperation) -> Kernel:
    """The mean of each window.

    Padding counts as zeros unless excluded. What a last window of ``ceil_mode`` reaches beyond the padding never counts (PyTorch).
    """
    window = Window.of(operation, operation.integers("kernel_sizes", ()))
    counts_padding = not operation.flag("exclude_padding_from_average")

    @functools.cache
    def counts(sizes: tuple[int, ...]) -> Array:
        padded = window.over(sizes)
        padding = list(zip(padded.before, padded.after, strict=True))
        mask = np.pad(np.ones(sizes, np.float32), padding, constant_values=float(counts_padding))[None, None]
        reach = Window(window.kernel, window.strides, window.dilations, (0,) * len(sizes), (0,) * len(sizes), window.out)
        return np.asarray(sum(reach.taps(reach.padded(mask, 0))))

    def kernel(x: Array) -> Array:
        return np.asarray(sum(window.taps(window.over(x.shape[2:]).padded(x, 0))) / counts(x.shape[2:]))

    return operation.bind(("x",), kernel)
