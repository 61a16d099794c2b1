"""Sliding windows over the last dimensions: what convolutions and pools share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from edgepack.mil.operation import Array, MilOperation


@dataclass(frozen=True)
class Window:
    """Geometry of a sliding window, one entry a spatial dimension.

    Attributes:
        kernel, strides, dilations: sizes. before, after: padding. out: output sizes.
        same: "same" or "same_lower" when the padding depends on the input's sizes (``over`` finds it), else empty.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    out: tuple[int, ...]
    same: str = ""

    @classmethod
    def of(cls, operation: MilOperation, kernel: tuple[int, ...]) -> Window:
        """The window of a conv or pool."""
        ones, zeros = (1,) * len(kernel), (0,) * 2 * len(kernel)
        kind = operation.text("pad_type", "valid")
        if kind not in ("valid", "custom", "same", "same_lower"):
            raise operation.refusal(f"has pad_type {kind}")
        pad = operation.integers("pad", zeros) if kind == "custom" else zeros
        out = operation.outputs[0].shape[2:]
        strides, dilations = operation.integers("strides", ones), operation.integers("dilations", ones)
        return cls(kernel, strides, dilations, pad[::2], pad[1::2], out, kind if kind.startswith("same") else "")

    def over(self, sizes: tuple[int, ...]) -> Window:
        """This window with the padding that "same" means for an input of ``sizes``.

        As much as gives ceil(size / stride) outputs (coremltools aggregated_pad), its larger half at the end, or at the start for
        "same_lower". The documentation of pools (pad = kernel size) is wrong: Apple's tests expect this.
        """
        if not self.same:
            return self
        total = [max(reach - size, 0) for reach, size in zip(self._reach(), sizes, strict=True)]
        small, large = tuple(pad // 2 for pad in total), tuple(pad - pad // 2 for pad in total)
        before, after = (small, large) if self.same == "same" else (large, small)
        return replace(self, before=before, after=after, same="")

    @property
    def is_pointwise(self) -> bool:
        """Whether every output reads exactly the input at its own place."""
        return max(*self.kernel, *self.strides) == 1 and not any(self.before) and not any(self.after)

    def padded(self, x: Array, value: float) -> Array:
        """``x`` (N, C, spatial...) with its padding written out, and as much more at the end as the last window reaches."""
        sizes = zip(x.shape[2:], self.before, self._reach(), strict=True)
        widths = [(0, 0), (0, 0), *((before, max(reach - size - before, 0)) for size, before, reach in sizes)]
        return np.pad(x, widths, constant_values=value) if any(map(any, widths)) else x

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
