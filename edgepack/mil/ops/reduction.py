"""reduce_* (coremltools iOS15/reduction.py)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgepack.mil.operation import Array, Build, Kernel, MilOperation, implements


def _log_sum_exp(x: Array, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    """The largest element is taken off first: nothing overflows."""
    largest = np.max(x, axis=axis, keepdims=True)
    raised = np.log(np.sum(np.exp(x - largest), axis=axis, keepdims=True)) + largest
    return np.asarray(raised if keepdims else np.squeeze(raised, axis))


_REDUCTIONS: dict[str, Callable[..., Array]] = {
    "reduce_l1_norm": lambda x, axis, keepdims: np.sum(np.abs(x), axis=axis, keepdims=keepdims),
    "reduce_l2_norm": lambda x, axis, keepdims: np.sqrt(np.sum(np.square(x), axis=axis, keepdims=keepdims)),
    "reduce_log_sum": lambda x, axis, keepdims: np.log(np.sum(x, axis=axis, keepdims=keepdims)),
    "reduce_log_sum_exp": _log_sum_exp,
    "reduce_max": np.max,
    "reduce_mean": np.mean,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_sum": np.sum,
    "reduce_sum_square": lambda x, axis, keepdims: np.sum(np.square(x), axis=axis, keepdims=keepdims),
}


def _reduction(function: Callable[..., Array]) -> Build:
    def build(operation: MilOperation) -> Kernel:
        axes = operation.integers("axes", ()) or None
        keeps = operation.flag("keep_dims")
        return operation.bind(("x",), lambda x: np.asarray(function(x, axis=axes, keepdims=keeps)))

    return build


for _type, _function in _REDUCTIONS.items():
    implements(_type, accepts=("x", "axes", "keep_dims"))(_reduction(_function))


def _place(function: Callable[..., Array]) -> Build:
    """The first place of the extreme element along ``axis`` (default -1)."""

    def build(operation: MilOperation) -> Kernel:
        (axis,) = operation.integers("axis", (-1,))
        keeps = operation.flag("keep_dims")
        return operation.bind(("x",), lambda x: np.asarray(function(x, axis=axis, keepdims=keeps)))

    return build


implements("reduce_argmax", accepts=("x", "axis", "keep_dims", "output_dtype"))(_place(np.argmax))
implements("reduce_argmin", accepts=("x", "axis", "keep_dims", "output_dtype"))(_place(np.argmin))


@implements("cumsum", accepts=("x", "axis", "exclusive", "reverse"))
def cumsum(operation: MilOperation) -> Kernel:
    """The sums of all elements up to each one along ``axis`` (default 0); ``exclusive`` leaves it out, ``reverse`` starts at the end."""
    (axis,) = operation.integers("axis", (0,))
    exclusive, reverse = operation.flag("exclusive"), operation.flag("reverse")

    def kernel(x: Array) -> Array:
        turned = np.flip(x, axis) if reverse else x
        if exclusive:
            kept = np.take(turned, range(x.shape[axis] - 1), axis)
            turned = np.concatenate([np.zeros_like(np.take(x, [0], axis)), kept], axis)
        total = np.cumsum(turned, axis=axis, dtype=x.dtype)
        return np.asarray(np.flip(total, axis) if reverse else total)

    return operation.bind(("x",), kernel)
