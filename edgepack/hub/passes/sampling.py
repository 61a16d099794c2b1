"""Numbers read between the elements of an image, said with gathers of its pixels and weights: GridSample, RoiAlign, DeformConv.

For formats that have no operator of the same meaning; onnxruntime runs the operators as they are. A pixel is a row of its channels, a point
is read from the few pixels around it along each axis (taps), and all points of all taps are gathered at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import attribute, constant, dtype_name
from edgepack.hub.passes.editing import Speller, Spelling, known_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    Values = list[ir.Value | None]

_INT64, _FLOAT = 7, 1
# Keys' cubic kernel with a = -0.75 as ONNX GridSample-20 has it, by powers of the distance from the highest down: for the two pixels
# within a distance of 1, and for the two beyond.
_NEAR, _FAR = (1.25, -2.25, 0.0, 1.0), (-0.75, 3.75, -6.0, 3.0)
_CUBIC = np.asarray([_FAR, _NEAR, _NEAR, _FAR], np.float32)
_OFFSETS = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}


@dataclass(frozen=True)
class Taps:
    """The pixels that points read along one axis: places (taps, points), whole and within the axis, and their weights, None for 1."""

    places: ir.Value
    weights: ir.Value | None
    count: int


def weighted_pixels(
    pixels: ir.Value, begins: ir.Value, sizes: Sequence[int], taps: Sequence[Taps], shape: tuple[int, int], spell: Spelling
) -> ir.Value:
    """(points, channels): the sum over all combinations of taps of weight times pixel.

    Args:
        pixels: (all pixels, channels).
        begins: int64 (points,) where the pixels of each point's image begin.
        sizes: of an image, an axis each.
        taps: of all points, an axis each.
        shape: of the result.
    """
    (points, channels), count, axes = shape, prod(held.count for held in taps), len(taps)

    def spread(value: ir.Value, axis: int) -> ir.Value:
        shape = [taps[axis].count if place == axis else 1 for place in range(axes)]
        return spell("Reshape", value, spell.integers(*shape, points))

    strides = [prod(sizes[axis + 1 :]) for axis in range(axes)]
    parts = [_times(spell("Cast", held.places, to=_INT64), stride, spell) for held, stride in zip(taps, strides, strict=True)]
    rows = reduce(lambda left, right: spell("Add", left, right), [spread(part, axis) for axis, part in enumerate(parts)])
    rows = spell("Add", rows, begins) if constant(begins) is None or np.any(constant(begins)) else rows
    found = spell("Gather", pixels, spell("Reshape", rows, spell.integers(-1)), axis=0)
    weights = [spread(held.weights, axis) for axis, held in enumerate(taps) if held.weights is not None]
    if not weights:
        return spell("Reshape", found, spell.integers(points, channels))
    weight = reduce(lambda left, right: spell("Mul", left, right), weights)
    whole = spell("Expand", weight, spell.integers(*(held.count for held in taps), points)) if len(weights) < axes else weight
    weight = spell("Reshape", whole, spell.integers(count, points, 1))
    each = spell("Mul", spell("Reshape", found, spell.integers(count, points, channels)), weight)
    return spell("ReduceSum", each, spell.integers(0), keepdims=0)


def _times(value: ir.Value, number: int, spell: Spelling) -> ir.Value:
    return value if number == 1 else spell("Mul", value, spell.constant(number, np.int64))


def pixels_of(x: ir.Value, shape: Sequence[int], spell: Spelling) -> ir.Value:
    """(N, C, *sizes) as (all pixels, channels)."""
    last = spell("Transpose", x, perm=[0, *range(2, len(shape)), 1])
    return spell("Reshape", last, spell.integers(-1, shape[1]))


def image_of(rows: ir.Value, images: int, channels: int, sizes: Sequence[int], spell: Spelling) -> ir.Value:
    """(all points, channels) as (N, C, *sizes)."""
    held = spell("Reshape", rows, spell.integers(images, *sizes, channels))
    rank = len(sizes) + 2
    return spell("Transpose", held, perm=[0, rank - 1, *range(1, rank - 1)])


@dataclass(frozen=True)
class Axis:
    """How points are read along an axis of ``size`` pixels."""

    spell: Spelling
    size: int
    mode: str
    padding: str
    aligned: bool

    def taps(self, points: ir.Value) -> Taps:
        """Of normalized coordinates (1, points)."""
        at = self._fitted(self._pixels(points))
        offsets = _OFFSETS[self.mode]
        if self.mode == "nearest":
            return self._padded(at, None)
        first = self.spell("Floor", at)
        places = self.spell("Add", first, self._number(np.asarray(offsets, np.float32)[:, None]))
        distance = self.spell("Abs", self.spell("Sub", at, places))
        return self._padded(places, self._linear(distance) if self.mode == "linear" else self._cubic(distance))

    def _number(self, value: object) -> ir.Value:
        return self.spell.constant(value, np.float32)

    def _pixels(self, points: ir.Value) -> ir.Value:
        """From -1 to 1: between the centres of the outermost pixels when ``aligned``, else between their outer edges."""
        scale = (self.size - 1) / 2 if self.aligned else self.size / 2
        at = self.spell("Add", self.spell("Mul", points, self._number(scale)), self._number((self.size - 1) / 2))
        return self.spell("Round", at) if self.mode == "nearest" else at

    @property
    def _ends(self) -> tuple[float, float]:
        return (0.0, self.size - 1.0) if self.aligned else (-0.5, self.size - 0.5)

    def _fitted(self, at: ir.Value) -> ir.Value:
        """Coordinates beyond the image, moved into it as the padding says."""
        if self.padding == "reflection":
            return self._reflected(at)
        if self.padding != "border":
            return at
        inner = self._clipped(at)
        if self.mode != "cubic":
            return inner
        low, high = self._ends
        beyond = self.spell("Or", self.spell("Less", at, self._number(low)), self.spell("Greater", at, self._number(high)))
        return self.spell("Where", beyond, inner, at)

    def _clipped(self, at: ir.Value) -> ir.Value:
        return self.spell("Clip", at, self._number(0), self._number(self.size - 1))

    def _reflected(self, at: ir.Value) -> ir.Value:
        """A triangle wave between the ends: back and forth until within."""
        spell, (low, high) = self.spell, self._ends
        span = high - low
        if span == 0:
            return spell("Mul", at, self._number(0))
        from_low = spell("Abs", spell("Sub", at, self._number(low)))
        turns = spell("Floor", spell("Mul", from_low, self._number(1 / (2 * span))))
        rest = spell("Sub", from_low, spell("Mul", turns, self._number(2 * span)))
        return spell("Sub", self._number(high), spell("Abs", spell("Sub", rest, self._number(span))))

    def _padded(self, places: ir.Value, weights: ir.Value | None) -> Taps:
        """Pixels beyond the image: another one, or with weight 0."""
        count, spell = len(_OFFSETS[self.mode]), self.spell
        if self.padding == "reflection":
            # The wave of a whole number may miss it by its rounding.
            return Taps(self._clipped(spell("Round", self._reflected(places))), weights, count)
        inner = self._clipped(places)
        if self.padding == "border":
            return Taps(inner, weights, count)
        is_inside = spell("Cast", spell("Equal", inner, places), to=_FLOAT)
        return Taps(inner, is_inside if weights is None else spell("Mul", weights, is_inside), count)

    def _linear(self, distance: ir.Value) -> ir.Value:
        return self.spell("Sub", self._number(1), distance)

    def _cubic(self, distance: ir.Value) -> ir.Value:
        powers = [self._number(column[:, None]) for column in _CUBIC.T]
        return reduce(lambda total, power: self.spell("Add", self.spell("Mul", total, distance), power), powers[1:], powers[0])


def grid_sample(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX GridSample-20, any number of axes: its reference implementation, which takes coordinates in the order x, y, z."""
    x, grid = node.inputs
    shape, given = known_shape(x), known_shape(grid)
    if x is None or grid is None or shape is None or given is None or 0 in (*shape, *given):
        return None
    sizes, points = shape[2:], prod(given[:-1])
    mode = _MODES.get(attribute(node, "mode", "linear"), attribute(node, "mode", "linear"))
    padding, aligned = attribute(node, "padding_mode", "zeros"), bool(attribute(node, "align_corners", 0))
    columns = spell("Reshape", grid, spell.integers(points, len(sizes)))
    taps = []
    for axis, size in enumerate(sizes):
        along = spell("Gather", columns, spell.constant(len(sizes) - 1 - axis, np.int64), axis=1)
        taps.append(Axis(spell, size, mode, padding, aligned).taps(spell("Reshape", along, spell.integers(1, points))))
    begins = spell.integers(*np.repeat(np.arange(shape[0]) * prod(sizes), points // shape[0]))
    rows = weighted_pixels(pixels_of(x, shape, spell), begins, sizes, taps, (points, shape[1]), spell)
    return [image_of(rows, shape[0], shape[1], given[1:-1], spell)]


# As GridSample-16 called them.
_MODES = {"bilinear": "linear", "bicubic": "cubic"}


def grid_sample_beyond_linear(node: ir.Node, spell: Spelling) -> Values | None:
    """The same, but for a format that reads images linearly itself."""
    mode, shape = attribute(node, "mode", "linear"), known_shape(node.inputs[0])
    return None if _MODES.get(mode, mode) == "linear" and shape is not None and len(shape) == _IMAGE else grid_sample(node, spell)


_IMAGE = 4


def _tent(at: ir.Value, size: int, spell: Spelling, outside: float | None) -> Taps:
    """The two pixels around coordinates (1, points); those beyond the image are the outermost, or weigh nothing where ``outside`` is.

    Args:
        outside: None for zeros beyond the image; else how far beyond it a point still reads the outermost pixel, and none further on.
    """

    def number(value: float) -> ir.Value:
        return spell.constant(value, np.float32)

    first, last = number(0), number(size - 1)
    held = at if outside is None else spell("Clip", at, first, last)
    places = spell("Add", spell("Floor", held), spell.constant([[0], [1]], np.float32))
    weights = spell("Sub", number(1), spell("Abs", spell("Sub", held, places)))
    inner = spell("Clip", places, first, last)
    if outside is None:
        fits = spell("Equal", inner, places)
    else:
        fits = spell("And", spell("GreaterOrEqual", at, number(-outside)), spell("LessOrEqual", at, number(size - 1 + outside)))
    return Taps(inner, spell("Mul", weights, spell("Cast", fits, to=_FLOAT)), 2)


# More numbers than this at once, and gathering pixels takes a phone's memory: 2^27 are half a gigabyte.
_MOST_NUMBERS = 2**27


def roi_align(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX RoiAlign-16, averages of a known number of samples a bin; other forms have sizes that only a run tells, or another mean."""
    x, rois, images = node.inputs[:3]
    shape, boxes, samples = known_shape(x), known_shape(rois), attribute(node, "sampling_ratio", 0)
    if x is None or rois is None or images is None or shape is None or boxes is None:
        return None
    bins = [attribute(node, "output_height", 1), attribute(node, "output_width", 1)]
    points = boxes[0] * prod(bins) * samples**2
    if samples < 1 or attribute(node, "mode", "avg") != "avg" or 4 * points * shape[1] > _MOST_NUMBERS:
        return None
    taps = []
    for axis in range(2):
        along = _samples_along(node, rois, axis, bins[axis], samples, boxes[0], spell)
        spread = [boxes[0], 1, 1, 1, 1]
        spread[1 + 2 * axis : 3 + 2 * axis] = [bins[axis], samples]
        whole = spell(
            "Expand", spell("Reshape", along, spell.integers(*spread)), spell.integers(boxes[0], bins[0], samples, bins[1], samples)
        )
        taps.append(_tent(spell("Reshape", whole, spell.integers(1, points)), shape[2 + axis], spell, 1.0))
    number = spell("Cast", images, to=_INT64) if dtype_name(images) != "int64" else images
    starts = spell("Mul", spell("Reshape", number, spell.integers(boxes[0], 1)), spell.integers(prod(shape[2:])))
    begins = spell("Reshape", spell("Expand", starts, spell.integers(boxes[0], points // boxes[0])), spell.integers(-1))
    rows = weighted_pixels(pixels_of(x, shape, spell), begins, shape[2:], taps, (points, shape[1]), spell)
    # Rank 5 at most: boxes and rows of bins are one axis.
    split = spell("Reshape", rows, spell.integers(boxes[0] * bins[0], samples, bins[1], samples, shape[1]))
    means = spell("ReduceMean", split, spell.integers(1, 3), keepdims=0)
    return [image_of(means, boxes[0], shape[1], bins, spell)]


def _samples_along(node: ir.Node, rois: ir.Value, axis: int, bins: int, samples: int, count: int, spell: Spelling) -> ir.Value:
    """(boxes, bins * samples) where each box is read along y (0) or x (1)."""
    half = attribute(node, "coordinate_transformation_mode", "half_pixel") == "half_pixel"
    ends = []
    for column in (1 - axis, 3 - axis):
        end = spell(
            "Mul", spell("Gather", rois, spell.integers(column), axis=1), spell.constant(attribute(node, "spatial_scale", 1.0), np.float32)
        )
        ends.append(spell("Sub", end, spell.constant(0.5, np.float32)) if half else end)
    length = spell("Sub", ends[1], ends[0])
    length = length if half else spell("Max", length, spell.constant(1, np.float32))
    parts = ((np.arange(bins)[:, None] + (np.arange(samples) + 0.5) / samples) / bins).reshape(1, -1)
    return spell("Add", ends[0], spell("Mul", length, spell.constant(parts, np.float32)))


def deform_conv(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX DeformConv-22 of images: pixels read beside the kernel's own places by the offsets, then a product with the weights."""
    x, weights, offsets = node.inputs[:3]
    bias, mask = [*node.inputs[3:5], None, None][:2]
    shape, kernel_shape, moved = known_shape(x), known_shape(weights), known_shape(offsets)
    if x is None or weights is None or offsets is None or shape is None or kernel_shape is None or moved is None or len(shape) != _IMAGE:
        return None
    images, channels, kernel, out = shape[0], shape[1], kernel_shape[2:], moved[2:]
    groups, parts, area, taps_ = attribute(node, "group", 1), attribute(node, "offset_group", 1), prod(out), prod(kernel)
    points = images * parts * taps_ * area
    if 4 * points * channels // parts > _MOST_NUMBERS:
        return None
    split = spell("Reshape", offsets, spell.integers(images * parts, taps_, 2, area))
    taps = []
    for axis in range(2):
        home = _homes(node, axis, kernel, out).reshape(1, taps_, area)
        offset = spell("Gather", split, spell.constant(axis, np.int64), axis=2)
        at = spell("Reshape", spell("Add", offset, spell.constant(home, np.float32)), spell.integers(1, points))
        taps.append(_tent(at, shape[2 + axis], spell, None))
    begins = spell.integers(*np.repeat(np.arange(images * parts) * prod(shape[2:]), taps_ * area))
    grouped = (images * parts, channels // parts, *shape[2:])
    pixels = pixels_of(spell("Reshape", x, spell.integers(*grouped)), grouped, spell)
    rows = weighted_pixels(pixels, begins, shape[2:], taps, (points, grouped[1]), spell)
    if mask is not None:
        rows = spell("Mul", rows, spell("Reshape", mask, spell.integers(points, 1)))
    # (images * parts, taps, area, channels of a part) -> a column of channels and taps for each place of the output.
    columns = spell("Transpose", spell("Reshape", rows, spell.integers(images * parts, taps_, area, grouped[1])), perm=[0, 3, 1, 2])
    columns = spell("Reshape", columns, spell.integers(images, groups, channels // groups * taps_, area))
    matrix = spell("Reshape", weights, spell.integers(1, groups, kernel_shape[0] // groups, channels // groups * taps_))
    result = spell("Reshape", spell("MatMul", matrix, columns), spell.integers(images, kernel_shape[0], *out))
    return [result if bias is None else spell("Add", result, spell("Reshape", bias, spell.integers(1, -1, 1, 1)))]


def _homes(node: ir.Node, axis: int, kernel: Sequence[int], out: Sequence[int]) -> np.ndarray:
    """(*kernel, *out) where an element of the kernel reads along an axis when its offset is 0."""
    stride, dilation = ((attribute(node, name) or [1, 1])[axis] for name in ("strides", "dilations"))
    before = (attribute(node, "pads") or [0] * 4)[axis]
    grid = np.indices((*kernel, *out))
    return np.asarray(grid[axis] * dilation + grid[axis + 2] * stride - before)


REGIONS: dict[str, Speller] = {"RoiAlign": roi_align, "DeformConv": deform_conv}
SPELLERS: dict[str, Speller] = {"GridSample": grid_sample, **REGIONS}
BEYOND_LINEAR: dict[str, Speller] = {"GridSample": grid_sample_beyond_linear, **REGIONS}
