"""MatMul and Gemm -> linear where the right side is a constant matrix, else matmul."""

from __future__ import annotations

import numpy as np

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import REALS, lowers, operand_at, required
from edgepack.quantize.fold import Operand, Operation

# MIL's linear documents ranks up to 3 (iOS15/linear.py).
_LINEAR_RANK = 3
_MATRIX = 2


@lowers("MatMul", reals=False)
def matmul(operation: Operation, emit: Emitter) -> Var:
    """ONNX MatMul-13. A constant matrix on the right goes to ``linear``, transposed as data, where weight compression applies.

    A vector is a matrix of one row on the left, of one column on the right, and that dimension leaves the product again.
    """
    x, y = required(operation, 0), required(operation, 1)
    left = emit("expand_dims", x=emit.value(x), axes=[0]) if x.rank == 1 else emit.value(x)
    if _is_linear(x, y):
        product = emit("linear", x=left, weight=emit.transposed(y))
    else:
        product = emit("matmul", x=left, y=emit("expand_dims", x=emit.value(y), axes=[1]) if y.rank == 1 else emit.value(y))
    gone = [axis for axis, operand in ((-2, x), (-1, y)) if operand.rank == 1]
    return emit("squeeze", x=product, axes=gone) if gone else product


def _is_linear(x: Operand, y: Operand) -> bool:
    is_weight = y.constant is not None and y.rank == _MATRIX and y.dtype in REALS
    return is_weight and x.rank <= _LINEAR_RANK and x.constant is None


@lowers("Gemm", honours={"alpha", "beta", "transA", "transB"})
def gemm(operation: Operation, emit: Emitter) -> Var:
    """ONNX Gemm-13: ``alpha * A' @ B' + beta * C`` of matrices.

    alpha and beta scale constants when the package is written; of a weight that is codes or computed at run time alpha scales A instead.
    """
    a, b, c = required(operation, 0), required(operation, 1), operand_at(operation, 2)
    alpha, beta = operation.attributes.get("alpha", 1.0), operation.attributes.get("beta", 1.0)
    x = emit.value(a)
    x = emit("transpose", x=x, perm=[1, 0]) if operation.attributes.get("transA", 0) else x
    is_plain = b.constant is not None and b.encoding is None
    x = x if is_plain or alpha == 1 else emit("mul", x=x, y=emit.number(alpha))
    transposed = bool(operation.attributes.get("transB", 0))
    bias = None if c is None else _scaled(c, beta)
    if bias is not None and bias.constant is None and beta != 1:
        scaled = emit("mul", x=emit.value(bias), y=emit.number(beta))
        return emit("add", x=_product(x, b, transposed, alpha, None, operation, emit), y=scaled)
    return _product(x, b, transposed, alpha, bias, operation, emit)


def _product(x: Var, b: Operand, transposed: bool, alpha: float, bias: Operand | None, operation: Operation, emit: Emitter) -> Var:
    """``x @ B' + bias``, with alpha in a weight that is a constant of reals."""
    if b.constant is None:
        product = emit("matmul", x=x, y=emit.value(b), transpose_y=transposed)
        return product if bias is None else emit("add", x=product, y=emit.value(bias))
    weight = _scaled(b, alpha) if b.encoding is None else b
    held = emit.value(weight) if transposed else emit.transposed(weight)
    return _linear(x, held, bias, operation.outputs[0].shape[1], emit)


def _linear(x: Var, weight: Var, bias: Operand | None, width: int, emit: Emitter) -> Var:
    """``linear`` with its bias inside when it is one constant a column."""
    if bias is None:
        return emit("linear", x=x, weight=weight)
    if bias.constant is None or bias.shape[:-1] not in ((), (1,)):
        return emit("add", x=emit("linear", x=x, weight=weight), y=emit.value(bias))
    row = np.broadcast_to(_bias_values(bias).reshape(-1), (width,))
    return emit("linear", x=x, weight=weight, bias=emit.reals(row, bias.name))


def _bias_values(bias: Operand) -> np.ndarray:
    assert bias.constant is not None
    return bias.constant if bias.encoding is None else bias.encoding.dequantize(bias.constant, "float64")


def _scaled(operand: Operand, factor: float) -> Operand:
    """A constant times a factor; the operand itself for 1."""
    if factor == 1 or operand.constant is None:
        return operand
    return Operand(f"{operand.name}_scaled", operand.shape, operand.dtype, None, operand.real() * np.float32(factor))
