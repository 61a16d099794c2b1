"""The geometry convolutions and pools share: kernel, stride, dilation, padding, over two spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgepack.backends.tflite.emit import Emitter
from edgepack.backends.tflite.layout import Layout
from edgepack.backends.tflite.program import Options, View
from edgepack.quantize.fold import Operation

Pair = tuple[int, int]

# What a window's attributes may be; every value of them is expressed.
WINDOW_ATTRIBUTES = frozenset({"kernel_shape", "strides", "pads", "auto_pad", "dilations"})


@dataclass(frozen=True)
class Window:
    """A sliding window over (height, width); a 1-D one has height 1.

    Attributes:
        spatial: size of what it slides over. begin, end: padding before and after, in elements.
    """

    spatial: Pair
    kernel: Pair
    strides: Pair
    dilations: Pair
    begin: Pair
    end: Pair

    @classmethod
    def of(cls, operation: Operation, kernel: Sequence[int]) -> Window:
        """The window of an ONNX Conv, MaxPool or AveragePool over its first input (NCHW or NCW)."""
        source = operation.inputs[0]
        assert source is not None
        spatial = pair(source.shape[2:], 1)
        held = operation.attributes
        strides, dilations = pair(held.get("strides") or (), 1), pair(held.get("dilations") or (), 1)
        window = cls(spatial, pair(kernel, 1), strides, dilations, (0, 0), (0, 0))
        begin, end = window._padding(str(held.get("auto_pad", "NOTSET")), held.get("pads") or ())
        return replace(window, begin=begin, end=end)

    @property
    def extent(self) -> Pair:
        """Elements from the first to the last one a window touches."""
        return (self.kernel[0] - 1) * self.dilations[0] + 1, (self.kernel[1] - 1) * self.dilations[1] + 1

    @property
    def output(self) -> Pair:
        """Size of the result: floor((spatial + padding - extent) / stride) + 1."""
        spans = [self.spatial[i] + self.begin[i] + self.end[i] - self.extent[i] for i in (0, 1)]
        return spans[0] // self.strides[0] + 1, spans[1] // self.strides[1] + 1

    @property
    def is_valid(self) -> bool:
        """No padding at all: TFLite's VALID."""
        return self.begin == self.end == (0, 0)

    @property
    def is_tflite_same(self) -> bool:
        """Whether TFLite's SAME pads alike: ceil(spatial / stride) outputs, the odd element at the end."""
        return (self.begin, self.end) == _split(self._same_total(), at_end=True)

    @property
    def padding(self) -> str:
        """TFLite's name for the padding; only for a window that is valid or same."""
        return "VALID" if self.is_valid else "SAME"

    def without_padding(self) -> Window:
        """The same window over the padded input."""
        padded = self.spatial[0] + self.begin[0] + self.end[0], self.spatial[1] + self.begin[1] + self.end[1]
        return replace(self, spatial=padded, begin=(0, 0), end=(0, 0))

    def _same_total(self) -> Pair:
        totals = [max((-(-self.spatial[i] // self.strides[i]) - 1) * self.strides[i] + self.extent[i] - self.spatial[i], 0) for i in (0, 1)]
        return totals[0], totals[1]

    def _padding(self, auto_pad: str, pads: Sequence[int]) -> tuple[Pair, Pair]:
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            return _split(self._same_total(), at_end=auto_pad == "SAME_UPPER")
        if auto_pad == "VALID":
            return (0, 0), (0, 0)
        half = len(pads) // 2
        return pair(pads[:half], 0), pair(pads[half:], 0)


def padded(view: View, window: Window, emit: Emitter, value: View | None = None) -> View:
    """A channels-last image with the window's padding written out, zeros (their codes) or ``value``."""
    if window.is_valid:
        return view
    table = [(0, 0), *zip(window.begin, window.end, strict=True), (0, 0)]
    shape = tuple(size + sum(pair) for size, pair in zip(view.stored, table, strict=True))
    paddings = emit.constant("paddings", np.asarray(table, np.int64))
    output = emit.like(view, Layout.plain(shape), "padded")
    if value is None:
        return emit.run("PAD", [view, paddings], output, Options("PadOptions"))
    return emit.run("PADV2", [view, paddings, value], output, Options("PadV2Options"))


def as_image(view: View, emit: Emitter) -> View:
    """(N, C, H, W) or (N, C, W) as a channels-last image of rank 4, its layout that of the artifact."""
    last = emit.image(view)
    if len(view.shape) == 4:
        return View(last.tensor, Layout.plain(last.stored), last.non_negative)
    batch, width, channels = last.stored
    return emit.reread(View(last.tensor, Layout.plain(last.stored), last.non_negative), Layout.plain((batch, 1, width, channels)))


def image_output(operation: Operation, emit: Emitter, shape: Sequence[int], activation: str = "") -> View:
    """The tensor a rank-4 kernel writes for the operation: artifact shape (N, H, W, C)."""
    return emit.output(operation.outputs[0], Layout.plain(tuple(shape)), activation)


def as_hub(image: View, operation: Operation, emit: Emitter) -> View:
    """A rank-4 channels-last result as the hub's (N, C, H, W) or (N, C, W)."""
    shape = operation.outputs[0].shape
    order = (0, *range(2, len(shape)), 1)
    return emit.reread(image, Layout(tuple(shape), order))


def pair(values: Sequence[int], default: int) -> Pair:
    """One or two spatial values as (height, width)."""
    held = [int(value) for value in values]
    full = [default] * (2 - len(held)) + held
    return full[0], full[1]


def _split(total: Pair, at_end: bool) -> tuple[Pair, Pair]:
    small = (total[0] // 2, total[1] // 2)
    large = (total[0] - small[0], total[1] - small[1])
    return (small, large) if at_end else (large, small)
