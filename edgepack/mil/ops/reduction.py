"""reduce_* (coremltools iOS15/reduction.py)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgepack.mil.operation import Array, Build, Kernel, MilOperation, implements

_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "reduce_max": np.max,
    "reduce_mean": np.mean,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_sum": np.sum,
}


def _reduction(function: Callable[..., Array]) -> Build:
    def build(operation: MilOperation) -> Kernel:
        axes = operation.integers("axes", ()) or None
        keeps = operation.flag("keep_dims")
        return operation.bind(("x",), lambda x: np.asarray(function(x, axis=axes, keepdims=keeps)))

    return build


for _type, _function in _REDUCTIONS.items():
    implements(_type, accepts=("x", "axes", "keep_dims"))(_reduction(_function))


@implements("reduce_argmax", accepts=("x", "axis", "keep_dims", "output_dtype"))
def reduce_argmax(operation: MilOperation) -> Kernel:
    """The first place of the largest element along ``axis`` (default -1)."""
    (axis,) = operation.integers("axis", (-1,))
    keeps = operation.flag("keep_dims")
    return operation.bind(("x",), lambda x: np.argmax(x, axis=axis, keepdims=keeps))
