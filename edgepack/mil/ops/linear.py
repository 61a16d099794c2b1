"""linear and matmul (coremltools iOS15/linear.py)."""

from __future__ import annotations

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements


@implements("linear", accepts=("x", "weight", "bias"))
def linear(operation: MilOperation) -> Kernel:
    """``x @ weight.T + bias``: x (..., D_in), weight (D_out, D_in), bias (D_out,)."""
    weight = np.ascontiguousarray(operation.array("weight").T)
    bias = operation.array("bias") if operation.has("bias") else np.zeros((), weight.dtype)
    return operation.bind(("x",), lambda x: np.matmul(x, weight) + bias)


@implements("matmul", accepts=("x", "y", "transpose_x", "transpose_y"))
def matmul(operation: MilOperation) -> Kernel:
    """Batched ``x @ y``, either side with its last two dimensions swapped first."""
    swap_x, swap_y = operation.flag("transpose_x"), operation.flag("transpose_y")

    def multiply(x: Array, y: Array) -> Array:
        return np.asarray(np.matmul(np.swapaxes(x, -1, -2) if swap_x else x, np.swapaxes(y, -1, -2) if swap_y else y))

    return operation.bind(("x", "y"), multiply)
