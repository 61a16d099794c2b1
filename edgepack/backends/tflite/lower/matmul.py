"""Gemm and MatMul: FULLY_CONNECTED where the right side is a weight, BATCH_MATMUL where both sides are activations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.tflite.emit import ACTIVATIONS, Emitter, arithmetic, is_integer, keeps_weight_codes
from edgepack.backends.tflite.layout import Layout
from edgepack.backends.tflite.lower.convolution import bias_of, bias_scale, per_channel, symmetric_weights, with_codes_of_channels
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import Refusal, lowers
from edgepack.quantize.encoding import Encoding
from edgepack.quantize.fold import Operand, Operation


def _is_weight(operation: Operation) -> bool:
    """A constant matrix or vector on the right."""
    right = operation.inputs[1]
    return right is not None and right.constant is not None and right.rank <= 2


def _weight_scales(operation: Operation) -> Refusal:
    """Scales along the weight's output channels: axis 0 of Gemm with transB, else the last."""
    if _is_weight(operation):
        return symmetric_weights(0 if operation.attributes.get("transB") else -1)(operation)  # type: ignore[no-any-return]
    right = operation.inputs[1]
    if right is not None and right.encoding is not None and right.encoding.scale.size > 1:
        return f"operand '{right.name}' of a batched product has a scale for each channel", "quantize it per tensor"
    return None


def _integer_gemm(operation: Operation) -> Refusal:
    if operation.attributes.get("alpha", 1.0) != 1 or operation.attributes.get("beta", 1.0) != 1:
        return "alpha or beta other than 1 on codes", "fold alpha and beta into weights and bias (canonical form)"
    addend = operation.inputs[2] if len(operation.inputs) > 2 else None
    if addend is None or (_is_weight(operation) and _is_vector(addend)):
        return None
    return f"addend '{addend.name}' on codes is not one number for each output channel", "write it as a separate Add"


def _is_vector(addend: Operand) -> bool:
    return addend.constant is not None and all(size == 1 for size in addend.shape[:-1])


def _are_activations(operation: Operation) -> bool:
    return not _is_weight(operation)


@lowers(
    "Gemm",
    honours={"alpha", "beta", "transA", "transB"},
    integer=(_weight_scales, bias_scale, _integer_gemm),
    in_float=_are_activations,
)
def gemm(operation: Operation, emit: Emitter) -> View:
    """ONNX Gemm-13, alpha A' B' + beta C -> FULLY_CONNECTED with weights (N, K), or BATCH_MATMUL and ADD."""
    x = _transposed(emit.take(operation.inputs[0]), bool(operation.attributes.get("transA", 0)), emit)
    addend = operation.inputs[2] if len(operation.inputs) > 2 else None
    if not _is_weight(operation):
        return _added(operation, emit, _batched(operation, emit, x), addend)
    if addend is None or _is_vector(addend):
        return fully_connected(operation, emit, x, _bias(operation, emit))
    if _is_row(operation, addend):
        # XNNPACK leaves a bias that is no constant to the builtin kernel. That is as wanted: XNNPACK packs the weights anew for every
        # call that reads them, 100 times in an LSTM of 100 steps (419 against 15 MB at width 512, and no faster).
        return fully_connected(operation, emit, x, emit.reshaped(emit.plain(emit.take(addend)), addend.shape[-1:]))
    without = replace(operation, inputs=operation.inputs[:2], activation="")
    return _added(operation, emit, fully_connected(without, emit, x, _bias(without, emit)), addend)


def _is_row(operation: Operation, addend: Operand) -> bool:
    """Whether a computed addend is one row of reals: a bias. So is a step of a recurrent layer."""
    weight, shape = operation.inputs[1], operation.outputs[0].shape
    plain = weight is not None and weight.encoding is None and operation.attributes.get("beta", 1.0) == 1
    return plain and addend.constant is None and addend.shape == shape and shape[0] == 1


def _multiplied(product: View, operation: Operation, emit: Emitter) -> View:
    """alpha times a product that has no weight to fold it into."""
    alpha = float(operation.attributes.get("alpha", 1.0))
    return product if alpha == 1 else emit.binary("MUL", product, emit.scalar(alpha, product))


def _transposed(view: View, wanted: bool, emit: Emitter) -> View:
    """The matrix or its transpose, as a renaming."""
    if not wanted:
        return view
    view = emit.plain(view) if view.layout.merged else view
    return View(view.tensor, view.layout.transposed((1, 0)), view.non_negative)


def _bias(operation: Operation, emit: Emitter) -> View:
    beta = float(operation.attributes.get("beta", 1.0))
    scaled = _scaled(operation.inputs[2], beta) if len(operation.inputs) > 2 else None
    held = replace(operation, inputs=(*operation.inputs[:2], scaled))
    return bias_of(held, emit, operation.outputs[0].shape[-1])


def _scaled(operand: Operand | None, factor: float) -> Operand | None:
    if operand is None or factor == 1:
        return operand
    return replace(operand, encoding=None, constant=(operand.real() * np.float32(factor)).astype(np.float32))


def fully_connected(operation: Operation, emit: Emitter, x: View, bias: View) -> View:
    """``x`` times a constant matrix; the last stored axis must be the one that is summed."""
    result = operation.outputs[0]
    if not x.layout.merged and x.layout.order[-1] != len(x.shape) - 1:
        x = emit.plain(x)
    weight = _weights(operation, emit, x)
    keeps = len(x.stored) > 2
    layout = Layout.plain(result.shape) if x.layout.merged else x.layout.of((*x.shape[:-1], bias.shape[0]))
    options = {"fusedActivationFunction": ACTIVATIONS[operation.activation], "keepNumDims": keeps}
    if not is_integer(operation) and weight.encoding is not None:
        options["asymmetricQuantizeInputs"] = True
    output = emit.output(result, layout, operation.activation)
    return emit.run("FULLY_CONNECTED", [x, weight, bias], output, Options("FullyConnectedOptions", options))


def _weights(operation: Operation, emit: Emitter, x: View) -> View:
    """Weights (N, K), columns in the order the features are stored."""
    right = with_codes_of_channels(operation, 0 if operation.attributes.get("transB") else -1).inputs[1]
    assert right is not None and right.constant is not None
    matrix = right.constant.reshape(right.shape if right.rank == 2 else (-1, 1))
    matrix = matrix if operation.attributes.get("transB") else matrix.T
    encoding = None if right.encoding is None else per_channel(right.encoding, matrix.shape[0])
    alpha = float(operation.attributes.get("alpha", 1.0))
    data, encoding = _times(matrix, encoding, alpha)
    if x.layout.merged:
        data = data[:, _stored_features(x.layout)]
    return emit.weights(right.name, np.ascontiguousarray(data), encoding, keeps_weight_codes(operation))


def _times(matrix: NDArray[Any], encoding: Encoding | None, factor: float) -> tuple[NDArray[Any], Encoding | None]:
    """A weight times a factor; codes keep their places and take the factor into their scales."""
    if factor == 1:
        return matrix, encoding
    if encoding is None:
        return (matrix * np.float32(factor)).astype(np.float32), None
    return encoding.dequantize(matrix) * np.float32(factor), None


def _stored_features(layout: Layout) -> NDArray[np.int64]:
    """For each stored feature of a flattened image, its index on the hub."""
    sample = Layout(layout.view[1:], tuple(axis - 1 for axis in layout.order[1:]))
    return sample.arranged(np.arange(layout.stored[1])).ravel()


def _added(operation: Operation, emit: Emitter, product: View, addend: Operand | None) -> View:
    if addend is None:
        return product
    total = _scaled(addend, float(operation.attributes.get("beta", 1.0))) if addend.constant is not None else addend
    term = emit.plain(emit.take(total)) if total is addend else emit.constant(addend.name, total.real() if total else np.zeros(1))
    if addend.constant is None and operation.attributes.get("beta", 1.0) != 1:
        term = emit.binary("MUL", term, emit.scalar(float(operation.attributes["beta"]), term))
    output = emit.output(operation.outputs[0], product.layout, operation.activation)
    return emit.run("ADD", [product, term], output, arithmetic("ADD", operation.activation))


@lowers("MatMul", integer=(_weight_scales,), in_float=_are_activations)
def matmul(operation: Operation, emit: Emitter) -> View:
    """ONNX MatMul-13 -> FULLY_CONNECTED with weights (N, K), or BATCH_MATMUL."""
    x = emit.take(operation.inputs[0])
    if not _is_weight(operation) or len(x.shape) < 2:
        return _batched(operation, emit, x)
    right = operation.inputs[1]
    assert right is not None
    channels = right.shape[1] if right.rank == 2 else 1
    if right.rank == 2:
        return fully_connected(operation, emit, x, bias_of(operation, emit, channels))
    column = replace(operation.outputs[0], shape=(*operation.outputs[0].shape, 1))
    product = fully_connected(replace(operation, outputs=(column,)), emit, x, bias_of(operation, emit, 1))
    return emit.reshaped(product, operation.outputs[0].shape)


def _batched(operation: Operation, emit: Emitter, x: View) -> View:
    """BATCH_MATMUL; a swapped right side is read through ``adjY`` instead of being moved."""
    y = _transposed(emit.take(operation.inputs[1]), bool(operation.attributes.get("transB", 0)), emit)
    x = emit.reshaped(x, (1, *x.shape)) if len(x.shape) == 1 else x
    y = emit.reshaped(y, (*y.shape, 1)) if len(y.shape) == 1 else y
    rank = max(len(x.shape), len(y.shape))
    x, y = _of_rank(x, rank, emit), _of_rank(y, rank, emit)
    swapped = (*range(rank - 2), rank - 1, rank - 2)
    is_adjoint = y.layout.order == swapped
    stored = [emit.plain(x), y if is_adjoint else emit.plain(y)]
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    product = replace(operation.outputs[0], shape=(*batch, x.shape[-2], y.shape[-1]))
    options = Options("BatchMatMulOptions", {"adjX": False, "adjY": is_adjoint})
    output = _multiplied(emit.run("BATCH_MATMUL", stored, emit.output(product, Layout.plain(product.shape)), options), operation, emit)
    activated = _activated(output, operation, emit) if len(operation.inputs) == 2 else output
    return emit.reshaped(activated, operation.outputs[0].shape)


def _of_rank(view: View, rank: int, emit: Emitter) -> View:
    return emit.reshaped(view, (1,) * (rank - len(view.shape)) + view.shape) if len(view.shape) < rank else view


def _activated(view: View, operation: Operation, emit: Emitter) -> View:
    """BATCH_MATMUL fuses nothing."""
    return view if not operation.activation else emit.unary(ACTIVATIONS[operation.activation], view)
