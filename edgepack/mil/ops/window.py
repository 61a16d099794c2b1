"""Sliding windows over the last dimensions: what convolutions and pools share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from edgepack.mil.operation import Array, MilOperation


@dataclass(frozen=True)
class Window:
    """What an operation says of its sliding window, one entry a spatial dimension.

    Attributes:
        kernel, strides, dilations: sizes.
        kind: MIL's pad_type; before, after: the padding of "custom", zeros otherwise.
        ceil_mode: whether a last window may reach past the end.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    kind: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    ceil_mode: bool = False

    @classmethod
    def of(cls, operation: MilOperation, kernel: tuple[int, ...]) -> Window:
        """The window of a conv or pool."""
        ones, zeros = (1,) * len(kernel), (0,) * 2 * len(kernel)
        kind = operation.text("pad_type", "valid")
        if kind not in ("valid", "custom", "same", "same_lower"):
            raise operation.refusal(f"has pad_type {kind}")
        pad = operation.integers("pad", zeros) if kind == "custom" else zeros
        strides, dilations = operation.integers("strides", ones), operation.integers("dilations", ones)
        return cls(kernel, strides, dilations, kind, pad[::2], pad[1::2], operation.flag("ceil_mode"))

    def over(self, sizes: Sequence[int]) -> Windows:
        """Where the windows lie in an input of these spatial sizes."""
        places = [self._along(axis, size) for axis, size in enumerate(sizes)]
        before, after, out = zip(*places, strict=True)
        return Windows(self.kernel, self.strides, self.dilations, before, after, out)

    def _along(self, axis: int, size: int) -> tuple[int, int, int]:
        """Padding before and after, and the number of windows (coremltools aggregated_pad, spatial_dimensions_out_shape).

        "same" pads as much as gives ceil(size / stride) windows, its larger half at the end, or at the start for "same_lower". The
        documentation of pools (pad = kernel size) is wrong: Apple's tests expect this.
        """
        stride, span = self.strides[axis], (self.kernel[axis] - 1) * self.dilations[axis] + 1
        if self.kind.startswith("same"):
            out = -(-size // stride)
            total = max((out - 1) * stride + span - size, 0)
            small, large = total // 2, total - total // 2
            return (small, large, out) if self.kind == "same" else (large, small, out)
        before, after = self.before[axis], self.after[axis]
        room = size + before + after - span
        if not self.ceil_mode:
            return before, after, room // stride + 1
        out = -(-room // stride) + 1
        starts_in_padding = (out - 1) * stride >= size + (before + after) / 2 and before + after > 0
        return before, after, out - 1 if starts_in_padding else out


@dataclass(frozen=True)
class Windows:
    """Every window over an input of known sizes, one entry a spatial dimension: padding before and after, ``out`` windows."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def is_pointwise(self) -> bool:
        """Whether every output reads exactly the input at its own place."""
        return max(*self.kernel, *self.strides) == 1 and not any(self.before) and not any(self.after)

    def padded(self, x: Array, value: float) -> Array:
        """``x`` (N, C, spatial...) with its padding written out, and as much more at the end as the last window reaches."""
        sizes = zip(x.shape[2:], self.before, self._reach(), strict=True)
        widths = [(0, 0), (0, 0), *((before, max(reach - size - before, 0)) for size, before, reach in sizes)]
        return _surrounded(x, widths, value) if any(map(any, widths)) else x

    def taps(self, padded: Array) -> Iterator[Array]:
        """For every place in the kernel, in row-major order, the elements all windows have there: (N, C, out...)."""
        for place in product(*map(range, self.kernel)):
            spans = zip(place, self.dilations, self.strides, self.out, strict=True)
            index = [slice(at * dilation, at * dilation + stride * (out - 1) + 1, stride) for at, dilation, stride, out in spans]
            yield padded[(slice(None), slice(None), *index)]

    def columns(self, padded: Array) -> Array:
        """All windows as a matrix: (N, C * kernel elements, output elements)."""
        batch, channels = padded.shape[:2]
        strides = padded.strides[2:]
        inner = tuple(step * dilation for step, dilation in zip(strides, self.dilations, strict=True))
        outer = tuple(step * stride for step, stride in zip(strides, self.strides, strict=True))
        shape = (batch, channels, *self.kernel, *self.out)
        windows = np.lib.stride_tricks.as_strided(padded, shape, (*padded.strides[:2], *inner, *outer), writeable=False)
        return windows.reshape(batch, channels * int(np.prod(self.kernel)), int(np.prod(self.out)))

    def _reach(self) -> list[int]:
        """How much padded input the windows of each dimension read."""
        sizes = zip(self.kernel, self.dilations, self.strides, self.out, strict=True)
        return [(out - 1) * stride + (kernel - 1) * dilation + 1 for kernel, dilation, stride, out in sizes]


def _surrounded(x: Array, widths: Sequence[tuple[int, int]], value: float) -> Array:
    """np.pad with a constant, without its cost of 30 us a dimension."""
    whole = np.full([size + before + after for size, (before, after) in zip(x.shape, widths, strict=True)], value, x.dtype)
    whole[tuple(slice(before, before + size) for size, (before, _) in zip(x.shape, widths, strict=True))] = x
    return whole
