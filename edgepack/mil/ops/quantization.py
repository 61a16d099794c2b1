"""quantize and dequantize (coremltools iOS17/quantization_ops.py); constexpr operations are materialized at load."""

from __future__ import annotations

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements


@implements("quantize", accepts=("input", "scale", "zero_point", "axis", "output_dtype"))
def quantize(operation: MilOperation) -> Kernel:
    """``clip(round(input / scale) + zero_point)``, ties to even, saturating to the output's code type."""
    scale, zero_point = _parameters(operation)
    limits = np.iinfo(operation.outputs[0].dtype)
    return operation.bind(("input",), lambda x: np.clip(np.rint(x / scale) + zero_point, limits.min, limits.max))


@implements("dequantize", accepts=("input", "scale", "zero_point", "axis"))
def dequantize(operation: MilOperation) -> Kernel:
    """``scale * (input - zero_point)``."""
    scale, zero_point = _parameters(operation)
    return operation.bind(("input",), lambda codes: (codes.astype(np.float32) - zero_point) * scale)


def _parameters(operation: MilOperation) -> tuple[Array, Array]:
    """Scale and zero point as float32, shaped to broadcast along ``axis``."""
    scale = operation.array("scale").astype(np.float32)
    zero_point = operation.array("zero_point").astype(np.float32) if operation.has("zero_point") else np.zeros_like(scale)
    if scale.ndim == 0:
        return scale, zero_point
    shape = [1] * operation.outputs[0].rank
    shape[operation.integers("axis", (0,))[0]] = -1
    return scale.reshape(shape), zero_point.reshape(shape)
