"""Rounding convolution kernels to fp16 so that their taps keep their sum.

Photographs and what convolutions make of them are smooth: neighbouring numbers are nearly equal, so a kernel answers most of all with the
sum of its taps. Kernels that sharpen have large taps that cancel, and rounded one by one their errors do not: the sum is wrong by many
times what it is. Error feedback (Floyd and Steinberg 1976 for pictures) hands the error of each tap on to the next smaller one, which has
finer steps; what is left is at most half a step of the smallest. EfficientNet-Lite0 with weights in fp16: 44.7 dB -> 54.7 dB from float64;
computed in fp16 as well, 43.4 -> 47.3 dB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgepack.hub.graph import constant

if TYPE_CHECKING:
    import onnx_ir as ir

_LARGEST = float(np.finfo(np.float16).max)
# Weights (outputs, inputs of the group, *taps), or the first two exchanged.
_CONVOLUTIONS = ("Conv", "ConvTranspose")


def with_half_kernels(model: ir.Model) -> ir.Model:
    """A copy of a hub whose constant convolution kernels are fp16 numbers, held as float32, that sum to what the kernels did.

    Kernels of one tap and those that fp16 does not hold are left to the writers, which round or refuse them.
    """
    import onnx_ir as ir

    copy = model.clone()
    kernels = [node.inputs[1] for node in copy.graph if node.op_type in _CONVOLUTIONS]
    for value in {id(value): value for value in kernels if value is not None}.values():
        held = constant(value)
        if held is not None and held.dtype == np.float32 and np.prod(held.shape[2:]) > 1:
            value.const_value = ir.tensor(keeping_sums(held), name=value.name)
    return copy


def keeping_sums(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Kernels rounded to fp16 numbers, each tap within one fp16 step of the largest, with the sum of taps kept.

    Args:
        weight: (channels, channels, *taps).
    """
    taps = weight.reshape(-1, int(np.prod(weight.shape[2:])))
    order = np.argsort(-np.abs(taps), axis=1, kind="stable")
    descending = np.take_along_axis(taps, order, axis=1).astype(np.float64)
    rounded = np.empty_like(descending)
    owed = np.zeros(len(taps))
    for tap in range(taps.shape[1]):
        wanted = descending[:, tap] + owed
        rounded[:, tap] = np.clip(wanted, -_LARGEST, _LARGEST).astype(np.float16)
        owed = wanted - rounded[:, tap]
    result = np.empty_like(taps)
    np.put_along_axis(result, order, rounded.astype(np.float32), axis=1)
    held = np.abs(taps).max(axis=1, keepdims=True, initial=0) <= _LARGEST
    return np.where(held, result, taps).reshape(weight.shape)
