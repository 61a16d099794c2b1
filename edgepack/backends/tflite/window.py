"""The geometry convolutions and pools share: kernel, stride, dilation, padding, over two or more spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.tflite.emit import Emitter
from edgepack.backends.tflite.layout import Layout, Shape
from edgepack.backends.tflite.program import Options, View
from edgepack.quantize.fold import Operation

# What a window's attributes may be; every value of them is expressed.
WINDOW_ATTRIBUTES = frozenset({"kernel_shape", "strides", "pads", "auto_pad", "dilations"})

# Kernels want height and width: a single spatial axis becomes the width of an image of height 1.
_FEWEST_AXES = 2


@dataclass(frozen=True)
class Window:
    """A sliding window over the spatial axes, (height, width) or more; a 1-D one has height 1.

    Attributes:
        spatial: size of what it slides over. begin, end: padding before and after, in elements.
    """

    spatial: Shape
    kernel: Shape
    strides: Shape
    dilations: Shape
    begin: Shape
    end: Shape

    @classmethod
    def of(cls, operation: Operation, kernel: Sequence[int]) -> Window:
        """The window of an ONNX Conv, MaxPool or AveragePool over its first input (NCHW, NCW or NCDHW)."""
        source = operation.inputs[0]
        assert source is not None
        count, held = source.rank - 2, operation.attributes
        strides, dilations = (spatially(held.get(name) or [1] * count, 1) for name in ("strides", "dilations"))
        none = spatially([0] * count, 0)
        window = cls(spatially(source.shape[2:], 1), spatially(kernel, 1), strides, dilations, none, none)
        begin, end = window._padding(str(held.get("auto_pad", "NOTSET")), held.get("pads") or [0] * 2 * count)
        return replace(window, begin=begin, end=end)

    @property
    def axes(self) -> range:
        """Positions of the spatial axes in the tuples above; 1 more in a channels-last image."""
        return range(len(self.spatial))

    @property
    def extent(self) -> Shape:
        """Elements from the first to the last one a window touches."""
        return tuple((kernel - 1) * dilation + 1 for kernel, dilation in zip(self.kernel, self.dilations, strict=True))

    @property
    def output(self) -> Shape:
        """Size of the result: floor((spatial + padding - extent) / stride) + 1."""
        spans = [self.spatial[i] + self.begin[i] + self.end[i] - self.extent[i] for i in self.axes]
        return tuple(spans[i] // self.strides[i] + 1 for i in self.axes)

    @property
    def is_valid(self) -> bool:
        """No padding at all: TFLite's VALID."""
        return not any(self.begin) and not any(self.end)

    @property
    def is_dilated(self) -> bool:
        """Whether elements are left out between those a window reads."""
        return any(dilation > 1 and kernel > 1 for dilation, kernel in zip(self.dilations, self.kernel, strict=True))

    @property
    def is_tflite_same(self) -> bool:
        """Whether TFLite's SAME pads alike: ceil(spatial / stride) outputs, the odd element at the end."""
        return (self.begin, self.end) == split_evenly(self._same_total(), at_end=True)

    def is_same_in(self, emit: Emitter) -> bool:
        """Whether SAME pads alike in the runtime that is written for, which may fail where elements lie between windows.

        By a stride above 1 SAME splits the padding of other sizes otherwise.
        """
        if emit.images_are_open and any(stride > 1 for stride in self.strides):
            return False
        skips = any(stride > extent for stride, extent in zip(self.strides, self.extent, strict=True))
        return self.is_tflite_same and not (skips and emit.runtime is not None and emit.runtime.same_must_not_skip)

    @property
    def padding(self) -> str:
        """TFLite's name for the padding; only for a window that is valid or same."""
        return "VALID" if self.is_valid else "SAME"

    def without_padding(self) -> Window:
        """The same window over the padded input."""
        none = (0,) * len(self.spatial)
        padded = tuple(self.spatial[i] + self.begin[i] + self.end[i] for i in self.axes)
        return replace(self, spatial=padded, begin=none, end=none)

    def reaching(self, output: Sequence[int]) -> Window:
        """The same window with as much more padding at the end as ``output`` takes: what ONNX's ceil_mode hangs over the edge."""
        wanted = spatially(output, 1)
        spans = [(wanted[i] - 1) * self.strides[i] + self.extent[i] - self.begin[i] - self.spatial[i] for i in self.axes]
        return replace(self, end=tuple(max(self.end[i], spans[i]) for i in self.axes))

    def counts(self, output: Sequence[int], counts_padding: bool) -> list[NDArray[np.int64]]:
        """For each spatial axis and each of ``output`` windows, the elements it reads inside the image, or inside image and padding."""
        wanted = spatially(output, 1)
        before, after = (self.begin, self.end) if counts_padding else ((0,) * len(self.spatial),) * 2
        return [self._counts(i, wanted[i], -before[i], self.spatial[i] + after[i]) for i in self.axes]

    def _counts(self, axis: int, windows: int, low: int, high: int) -> NDArray[np.int64]:
        first = np.arange(windows) * self.strides[axis] - self.begin[axis]
        read = np.add.outer(first, np.arange(self.kernel[axis]) * self.dilations[axis])
        counted: NDArray[np.int64] = ((read >= low) & (read < high)).sum(axis=1)
        return counted

    def _same_total(self) -> Shape:
        outputs = [-(-self.spatial[i] // self.strides[i]) for i in self.axes]
        return tuple(max((outputs[i] - 1) * self.strides[i] + self.extent[i] - self.spatial[i], 0) for i in self.axes)

    def _padding(self, auto_pad: str, pads: Sequence[int]) -> tuple[Shape, Shape]:
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            return split_evenly(self._same_total(), at_end=auto_pad == "SAME_UPPER")
        if auto_pad == "VALID":
            return (0,) * len(self.spatial), (0,) * len(self.spatial)
        half = len(pads) // 2
        return spatially(pads[:half], 0), spatially(pads[half:], 0)


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
    """(N, C, W) or (N, C, H, W) or more as a channels-last image of rank 4 or more, its layout that of the artifact."""
    last = emit.image(view)
    if len(view.shape) > 3:
        return View(last.tensor, Layout.plain(last.stored), last.non_negative)
    batch, width, channels = last.stored
    return emit.reread(View(last.tensor, Layout.plain(last.stored), last.non_negative), Layout.plain((batch, 1, width, channels)))


def image_output(operation: Operation, emit: Emitter, shape: Sequence[int], activation: str = "") -> View:
    """The tensor a kernel writes for the operation: artifact shape (N, H, W, C)."""
    return emit.output(operation.outputs[0], Layout.plain(tuple(shape)), activation)


def as_hub(image: View, operation: Operation, emit: Emitter) -> View:
    """A channels-last result as the hub's (N, C, W), (N, C, H, W) or more."""
    shape = operation.outputs[0].shape
    order = (0, *range(2, len(shape)), 1)
    return emit.reread(image, Layout(tuple(shape), order))


def spatially(values: Sequence[int], default: int) -> Shape:
    """One value for each spatial axis; of a single axis the width, after ``default`` for a height of 1."""
    held = [int(value) for value in values]
    return tuple([default] * (_FEWEST_AXES - len(held)) + held)


def split_evenly(total: Shape, at_end: bool) -> tuple[Shape, Shape]:
    """Padding before and after; of an odd total the larger half comes last if ``at_end``."""
    small = tuple(held // 2 for held in total)
    large = tuple(held - half for held, half in zip(total, small, strict=True))
    return (small, large) if at_end else (large, small)
