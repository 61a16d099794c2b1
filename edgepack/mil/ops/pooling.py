"""max_pool, avg_pool and l2_pool (coremltools iOS15/pool.py) over (N, C, spatial...)."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements
from edgepack.mil.ops.window import Window, Windows

_ACCEPTS = ("x", "kernel_sizes", "strides", "pad_type", "pad", "ceil_mode")


@implements("max_pool", accepts=_ACCEPTS, selects=True)
def max_pool(operation: MilOperation) -> Kernel:
    """The largest element of each window; padding never wins."""
    window = Window.of(operation, operation.integers("kernel_sizes", ()))

    def kernel(x: Array) -> Array:
        windows = window.over(x.shape[2:])
        return np.asarray(functools.reduce(np.maximum, windows.taps(windows.padded(x, -np.inf))))

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
        return _counted(window.over(sizes), sizes, counts_padding)

    def kernel(x: Array) -> Array:
        windows = window.over(x.shape[2:])
        return np.asarray(sum(windows.taps(windows.padded(x, 0))) / counts(x.shape[2:]))

    return operation.bind(("x",), kernel)


@implements("l2_pool", accepts=_ACCEPTS)
def l2_pool(operation: MilOperation) -> Kernel:
    """The square root of the sum of squares of each window; padding adds nothing."""
    window = Window.of(operation, operation.integers("kernel_sizes", ()))

    def kernel(x: Array) -> Array:
        windows = window.over(x.shape[2:])
        return np.sqrt(sum(windows.taps(np.square(windows.padded(x, 0)))))

    return operation.bind(("x",), kernel)


def _counted(windows: Windows, sizes: tuple[int, ...], counts_padding: bool) -> Array:
    """How many elements each window averages: (1, 1, out...)."""
    if counts_padding:
        sizes = tuple(map(sum, zip(windows.before, sizes, windows.after, strict=True)))
        windows = replace(windows, before=(0,) * len(sizes))
    return np.asarray(sum(windows.taps(windows.padded(np.ones((1, 1, *sizes), np.float32), 0))))
