"""linear, matmul and einsum (coremltools iOS15/linear.py)."""

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


@implements("einsum", accepts=("values", "equation"))
def einsum(operation: MilOperation) -> Kernel:
    """The products ``nchw,nwhu->nchu`` and ``chw,whr->chr``, by whatever letters: matrices on dimensions -3 and -1, the others batch."""
    letters = {letter: place for place, letter in enumerate(dict.fromkeys(filter(str.isalpha, operation.text("equation", ""))))}
    spelled = "".join(chr(ord("a") + letters[held]) if held in letters else held for held in operation.text("equation", "") if held != " ")
    if spelled not in ("abcd,adce->abce", "abc,cbd->abd"):
        raise operation.refusal(f"has the equation {operation.text('equation', '')}")
    return operation.bind(("values",), lambda values: np.matmul(*(held.swapaxes(-2, -3) for held in values)).swapaxes(-2, -3))
