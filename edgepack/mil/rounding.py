"""Rounding to float16 precision, several times faster than numpy's casts there and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# float32 keeps 23 fraction bits, float16 10: 13 are dropped.
_DROPPED = np.uint32(13)
_HALF_LESS_ONE = np.uint32((1 << 12) - 1)
_ONE = np.uint32(1)
_KEPT = np.uint32(0xFFFFFFFF << 13 & 0xFFFFFFFF)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
# Bits of 2^-14, float16's smallest normal number, and of 65520, the first that rounds to infinity.
_NORMAL = np.float32(2**-14).view(np.uint32)
_SPAN = np.float32(65520).view(np.uint32) - _NORMAL


def to_half(array: NDArray[Any]) -> NDArray[np.float32]:
    """``array.astype(float16).astype(float32)``, to nearest with ties to even; same shape.

    Of a float32 among float16's normal numbers this drops 13 bits of the fraction; the rest is cast by numpy.
    """
    if array.dtype != np.float32:
        return array.astype(np.float16).astype(np.float32)
    source = np.ascontiguousarray(array)
    bits = source.view(np.uint32)
    rounded = bits >> _DROPPED
    rounded &= _ONE
    rounded += _HALF_LESS_ONE
    rounded += bits
    rounded &= _KEPT
    found = rounded.view(np.float32)
    magnitude = bits & _MAGNITUDE
    is_other = ((magnitude - _NORMAL) >= _SPAN) & (magnitude != 0)
    if is_other.any():
        found[is_other] = source[is_other].astype(np.float16)
    return found.reshape(array.shape)
