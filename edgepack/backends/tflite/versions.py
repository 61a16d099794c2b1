"""Operator versions: the oldest that defines what a call asks for, so that an old runtime refuses instead of computing garbage.

Follows ``GetBuiltinOperatorVersion`` of LiteRT (tflite/converter/tools/versioning/op_version.cc), for the types this writer emits.
"""

from __future__ import annotations

from collections.abc import Callable

from edgepack.backends.tflite.program import Call, Tensor

# Version 2 is the one that takes int8, with no other distinction among the types emitted here.
_INT8_IS_2 = frozenset(
    {
        "ABS",
        "ADD",
        "AVERAGE_POOL_2D",
        "BATCH_MATMUL",
        "CONCATENATION",
        "DEPTH_TO_SPACE",
        "EQUAL",
        "EXP",
        "GATHER",
        "GELU",
        "GREATER",
        "GREATER_EQUAL",
        "LESS",
        "LESS_EQUAL",
        "LOG",
        "LOGISTIC",
        "LOG_SOFTMAX",
        "MAXIMUM",
        "MAX_POOL_2D",
        "MEAN",
        "MINIMUM",
        "MIRROR_PAD",
        "MUL",
        "PAD",
        "PADV2",
        "REDUCE_MAX",
        "REDUCE_MIN",
        "RELU",
        "RELU6",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "RSQRT",
        "SLICE",
        "SOFTMAX",
        "SPACE_TO_DEPTH",
        "SPLIT",
        "SPLIT_V",
        "SQRT",
        "SQUARED_DIFFERENCE",
        "STRIDED_SLICE",
        "SUB",
        "SUM",
        "TANH",
        "TRANSPOSE",
        "TRANSPOSE_CONV",
    }
)


def version(call: Call) -> int:
    """The version number the operator code of ``call`` needs."""
    base = 2 if call.operator in _INT8_IS_2 and _data(call).dtype == "int8" else 1
    rule = _RULES.get(call.operator)
    return max(base, rule(call)) if rule else base


def _data(call: Call) -> Tensor:
    """The input whose type decides: SPLIT reads its axis first, TRANSPOSE_CONV its output shape and filters."""
    tensor = call.inputs[{"SPLIT": 1, "TRANSPOSE_CONV": 2}.get(call.operator, 0)]
    assert tensor is not None
    return tensor


def _types(call: Call) -> tuple[str, str]:
    first, second = call.inputs[:2]
    assert first is not None and second is not None
    return first.dtype, second.dtype


def _per_channel(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.encoding is not None and tensor.encoding.scale.size > 1


def _convolution(call: Call) -> int:
    source, filters = call.inputs[0], call.inputs[1]
    assert source is not None and filters is not None
    if source.shape[-1] != filters.shape[-1]:
        return 6
    if _types(call) == ("float32", "int8"):
        return 5 if _per_channel(filters) else 2
    return 3 if source.dtype == "int8" else 1


def _depthwise(call: Call) -> int:
    if _types(call) == ("float32", "int8"):
        return 6 if _per_channel(call.inputs[1]) else 4
    if _types(call) == ("int8", "int8"):
        return 3
    return 2 if (call.option("dilationWFactor"), call.option("dilationHFactor")) != (1, 1) else 1


def _fully_connected(call: Call) -> int:
    if _types(call) == ("float32", "int8"):
        return 12 if _per_channel(call.inputs[1]) else 9 if call.option("asymmetricQuantizeInputs") else 3
    if len(call.inputs) == 2:
        return 6
    if call.option("keepNumDims"):
        return 5
    return 4 if _types(call)[0] == "int8" else 1


def _mul(call: Call) -> int:
    scales = [t.encoding.scale.item() for t in (*call.inputs, *call.outputs) if t is not None and t.encoding is not None]
    return 3 if len(scales) == 3 and scales[0] * scales[1] / scales[2] >= 1 else 1


def _is_wide(call: Call) -> bool:
    return max(len(tensor.shape) for tensor in call.inputs if tensor is not None) > 4


def _broadcasts(call: Call) -> bool:
    return len({tensor.shape for tensor in call.inputs if tensor is not None}) > 1


def _transpose(call: Call) -> int:
    rank = len(_data(call).shape)
    wide = 8 if rank > 6 else 6 if rank > 5 else 4 if rank > 4 else 1
    return max(wide, 3 if _data(call).dtype == "bool" else 1)


def _dequantize(call: Call) -> int:
    if _data(call).dtype == "float16":
        return 3
    return (5 if _per_channel(_data(call)) else 2) if _data(call).dtype == "int8" else 1


def _resize_nearest(call: Call) -> int:
    return 3 if call.option("alignCorners") or call.option("halfPixelCenters") else 1


_RULES: dict[str, Callable[[Call], int]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "MUL": _mul,
    "TRANSPOSE": _transpose,
    "DEQUANTIZE": _dequantize,
    "RESIZE_NEAREST_NEIGHBOR": _resize_nearest,
    "RESIZE_BILINEAR": lambda call: 3 if call.option("halfPixelCenters") else 1,
    "SUB": lambda call: 3 if _broadcasts(call) and _is_wide(call) else 1,
    "DIV": lambda call: 2 if _broadcasts(call) and _is_wide(call) else 1,
    "MAXIMUM": lambda call: 3 if _broadcasts(call) and _is_wide(call) else 1,
    "MINIMUM": lambda call: 3 if _broadcasts(call) and _is_wide(call) else 1,
    "PAD": lambda call: 4 if _is_wide(call) else 1,
    "PADV2": lambda call: 4 if _is_wide(call) else 1,
    "SLICE": lambda call: 5 if _is_wide(call) else 1,
    "STRIDED_SLICE": lambda call: 4 if _is_wide(call) else 3 if _data(call).dtype == "bool" else 1,
    "SPLIT": lambda call: 3 if _data(call).dtype == "int32" else 1,
    "GATHER": lambda call: 3 if _data(call).dtype == "bool" else 1,
    "ABS": lambda call: 5 if _data(call).dtype == "int32" else 1,
    "SIGN": lambda call: 2 if _data(call).dtype == "int32" else 1,
    "BROADCAST_TO": lambda call: 3 if _data(call).dtype == "int8" else 2,
    "TRANSPOSE_CONV": lambda call: 4 if call.option("fusedActivationFunction") not in (None, "NONE") else 3 if len(call.inputs) == 4 else 1,
    "CAST": lambda call: 3 if "int8" in (_data(call).dtype, call.outputs[0].dtype) else 1,
}
