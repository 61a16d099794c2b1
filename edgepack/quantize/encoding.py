"""The affine encoding: real = scale * (code - zero_point), ONNX QuantizeLinear-21 semantics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Activation codes are uint8 on the hub and int8 in TFLite; the two differ by this shift of code and zero point.
UINT8_TO_INT8 = 128


@dataclass(frozen=True)
class Encoding:
    """How real numbers are held as integer codes.

    Attributes:
        scale: float32, shape () for a whole tensor or (channels,) along ``axis``; every element > 0 and finite.
        zero_point: integers of ``dtype``, same shape as ``scale``.
        dtype: numpy name of the code type: "uint8", "int8" or "int32".
        axis: the channel axis, None for a whole tensor.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    dtype: str
    axis: int | None = None

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest code of the type."""
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)

    def quantize(self, real: NDArray[Any]) -> NDArray[Any]:
        """Codes of ``real`` (any float dtype, any shape): divide, round half to even, add the zero point, saturate."""
        scale, zero_point = self._broadcast(real.ndim)
        low, high = self.limits
        rounded = np.rint(real.astype(np.float64) / scale.astype(np.float64)) + zero_point.astype(np.float64)
        codes: NDArray[Any] = np.clip(rounded, low, high).astype(self.dtype)
        return codes

    def dequantize(self, codes: NDArray[Any], dtype: str = "float32") -> NDArray[Any]:
        """Real numbers of ``codes``, computed and returned in float type ``dtype``."""
        scale, zero_point = self._broadcast(codes.ndim)
        real: NDArray[Any] = (codes.astype(np.int64) - zero_point.astype(np.int64)).astype(dtype) * scale.astype(dtype)
        return real

    def as_int8(self) -> Encoding:
        """The same real numbers with int8 codes; a uint8 encoding shifts by 128, an int8 or int32 one is unchanged."""
        if self.dtype != "uint8":
            return self
        shifted = (self.zero_point.astype(np.int16) - UINT8_TO_INT8).astype(np.int8)
        return Encoding(self.scale, shifted, "int8", self.axis)

    def same_as(self, other: Encoding | None) -> bool:
        """Whether both hold every real number in the same code."""
        return (
            other is not None
            and (self.dtype, self.axis) == (other.dtype, other.axis)
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    def _broadcast(self, rank: int) -> tuple[NDArray[Any], NDArray[Any]]:
        if self.axis is None:
            return self.scale, self.zero_point
        shape = [1] * rank
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.reshape(shape)


def codes_as_int8(codes: NDArray[Any]) -> NDArray[Any]:
    """uint8 codes shifted to int8; other code types unchanged."""
    return (codes.astype(np.int16) - UINT8_TO_INT8).astype(np.int8) if codes.dtype == np.uint8 else codes
