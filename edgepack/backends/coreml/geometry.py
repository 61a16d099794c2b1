"""Sliding windows as ONNX spells them (Conv-11, MaxPool-12, AveragePool-19), with the explicit padding of MIL's pad_type custom."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgepack.quantize.fold import Operation

ATTRIBUTES = frozenset({"kernel_shape", "strides", "pads", "auto_pad", "dilations"})


@dataclass(frozen=True)
class Window:
    """One entry a spatial dimension; ``before`` and ``after`` are padding."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, operation: Operation, spatial: tuple[int, ...], kernel: tuple[int, ...]) -> Window:
        """The window of a convolution or pool over input sizes ``spatial``."""
        ones = [1] * len(spatial)
        strides = tuple(operation.attributes.get("strides", ones))
        dilations = tuple(operation.attributes.get("dilations", ones))
        before, after = _padding(operation, spatial, kernel, strides, dilations)
        return cls(kernel, strides, dilations, before, after)

    @property
    def interleaved(self) -> list[int]:
        """Padding as MIL orders it: before and after of each dimension in turn."""
        return [size for pair in zip(self.before, self.after, strict=True) for size in pair]

    @property
    def is_dilated(self) -> bool:
        """Whether a window skips elements along some axis; one of a single element skips none."""
        return any(kernel > 1 and dilation > 1 for kernel, dilation in zip(self.kernel, self.dilations, strict=True))

    def overhang(self, spatial: tuple[int, ...], out: tuple[int, ...]) -> tuple[int, ...]:
        """How far the last window of each dimension reaches past the padded input (``ceil_mode``)."""
        sizes = zip(spatial, out, self.kernel, self.strides, self.dilations, self.before, self.after, strict=True)
        return tuple(
            max(0, (windows - 1) * stride + (kernel - 1) * dilation + 1 - size - before - after)
            for size, windows, kernel, stride, dilation, before, after in sizes
        )

    def extended(self, overhang: tuple[int, ...]) -> Window:
        """The same window with its padding grown at the end."""
        return replace(self, after=tuple(after + more for after, more in zip(self.after, overhang, strict=True)))


def _padding(
    operation: Operation, spatial: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    form = operation.attributes.get("auto_pad", "NOTSET")
    if form in ("NOTSET", "VALID"):
        pads = operation.attributes.get("pads") if form == "NOTSET" else None
        pads = pads or [0] * 2 * len(spatial)
        return tuple(pads[: len(spatial)]), tuple(pads[len(spatial) :])
    totals = [
        max(0, (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size)
        for size, width, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True)
    ]
    small, large = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
    return (small, large) if form == "SAME_UPPER" else (large, small)
