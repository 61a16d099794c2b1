"""Operators that take or add parts of a tensor: Slice, Split, Gather, Pad, TopK."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgepack.backends.tflite.emit import Emitter, arithmetic
from edgepack.backends.tflite.layout import Layout
from edgepack.backends.tflite.lower.elementwise import concatenated
from edgepack.backends.tflite.lower.embedding import rows_of_codes, takes_rows_of_codes
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import Refusal, attribute_is, constant_inputs, equal_encodings, lowers
from edgepack.quantize.fold import Operand, Operation


@dataclass(frozen=True)
class Range:
    """Elements ``begin``, ``begin + step``, ... of one axis, ``count`` of them."""

    begin: int
    step: int
    count: int

    @classmethod
    def of(cls, start: int, end: int, step: int, size: int) -> Range:
        """ONNX Slice-13: negative positions count from the end, others are cut to the axis."""
        held = range(size)[slice(start, end if end >= -size or step > 0 else None, step)]
        return cls(held.start if len(held) else 0, step, len(held))


def _integers(operation: Operation, position: int) -> list[int] | None:
    operand = operation.inputs[position] if position < len(operation.inputs) else None
    return None if operand is None or operand.constant is None else [int(value) for value in np.ravel(operand.constant)]


def _ranges(operation: Operation) -> list[Range]:
    """One range for each axis of the hub's input."""
    source, starts, ends = operation.inputs[0], _integers(operation, 1), _integers(operation, 2)
    assert source is not None and starts is not None and ends is not None
    axes = _integers(operation, 3) or list(range(len(starts)))
    steps = _integers(operation, 4) or [1] * len(starts)
    ranges = [Range(0, 1, size) for size in source.shape]
    for start, end, step, axis in zip(starts, ends, steps, axes, strict=True):
        ranges[axis] = Range.of(start, end, step, source.shape[axis])
    return ranges


def _unmerged(view: View, emit: Emitter) -> View:
    return emit.plain(view) if view.layout.merged else view


@lowers("Slice", objects=(constant_inputs(1, 2, 3, 4),), integer=(equal_encodings,))
def slice_(operation: Operation, emit: Emitter) -> View:
    """ONNX Slice-13 -> SLICE, or STRIDED_SLICE where a step is not 1."""
    x, ranges = _unmerged(emit.take(operation.inputs[0]), emit), _ranges(operation)
    stored = [ranges[axis] for axis in x.layout.order]
    output = emit.output(operation.outputs[0], x.layout.of(operation.outputs[0].shape))
    begin = emit.indices("begin", [part.begin for part in stored])
    if all(part.step == 1 for part in stored):
        sizes = emit.indices("size", [part.count for part in stored])
        return emit.run("SLICE", [x, begin, sizes], output, Options("SliceOptions"))
    ends = [part.begin + part.step * part.count for part in stored]
    # Going down past the first element has no number in TFLite, where -1 is the last one: the mask says "to the edge".
    mask = sum(1 << axis for axis, end in enumerate(ends) if end < 0)
    inputs = [x, begin, emit.indices("end", [max(end, 0) for end in ends]), emit.indices("strides", [part.step for part in stored])]
    fields = {"beginMask": 0, "endMask": mask, "ellipsisMask": 0, "newAxisMask": 0, "shrinkAxisMask": 0}
    return emit.run("STRIDED_SLICE", inputs, output, Options("StridedSliceOptions", fields))


@lowers("Split", honours={"axis", "num_outputs"}, objects=(constant_inputs(1),), integer=(equal_encodings,))
def split(operation: Operation, emit: Emitter) -> list[View]:
    """ONNX Split-18 -> SPLIT for equal parts, else SLICEs: delegates take no SPLIT_V."""
    x = _unmerged(emit.take(operation.inputs[0]), emit)
    axis = int(operation.attributes.get("axis", 0)) % len(x.shape)
    sizes = [operand.shape[axis] for operand in operation.outputs]
    outputs = [emit.output(operand, x.layout.of(operand.shape)) for operand in operation.outputs]
    # SPLIT has no kernel for booleans, SLICE has.
    if len(set(sizes)) > 1 or operation.outputs[0].dtype == "bool":
        return [_sliced(x, axis, sum(sizes[:index]), output, emit) for index, output in enumerate(outputs)]
    position = emit.indices("axis", x.layout.position(axis))
    emit.run_many("SPLIT", [position, x], outputs, Options("SplitOptions", {"numSplits": len(sizes)}))
    return outputs


@lowers("Gather", honours={"axis"}, integer=(equal_encodings,))
def gather(operation: Operation, emit: Emitter) -> View:
    """ONNX Gather-13 -> GATHER. TFLite takes no negative index, so constants are wrapped here and others by FLOOR_MOD.

    Constant indices that are neighbours are SLICEs, which delegates take. A table in codes is never expanded (``embedding``).
    """
    table = operation.inputs[0]
    if table is not None and takes_rows_of_codes(operation):
        return rows_of_codes(table, _wrapped_indices(operation, emit, table.shape[0])[0], operation.outputs[0], emit)
    x = _unmerged(_table(operation, emit), emit)
    axis = int(operation.attributes.get("axis", 0)) % len(x.shape)
    index = operation.inputs[1]
    if index is not None and index.constant is not None and index.rank == 0:
        return _taken(operation, emit, x, axis, int(index.constant) % x.shape[axis])
    if index is not None and index.constant is not None and index.rank == 1 and index.constant.size:
        return picked(x, axis, np.mod(index.constant, x.shape[axis]), emit)
    indices, rank = _wrapped_indices(operation, emit, x.shape[axis])
    if rank > 1:
        x = emit.plain(x)
    layout = _gathered_layout(x.layout, axis, operation.outputs[0].shape, rank)
    options = Options("GatherOptions", {"axis": x.layout.position(axis), "batchDims": 0})
    return emit.run("GATHER", [x, indices], emit.output(operation.outputs[0], layout), options)


def _table(operation: Operation, emit: Emitter) -> View:
    """What is gathered from; a constant in real numbers is a weight like others, halved under fp16."""
    table = operation.inputs[0]
    if table is None or table.constant is None or table.encoding is not None:
        return emit.take(table)
    return emit.weights(table.name, table.constant, None, keeps_codes=False)


def _taken(operation: Operation, emit: Emitter, x: View, axis: int, index: int) -> View:
    """Element ``index`` of ``axis``, the axis dropped."""
    row = _part(x, axis, index, 1, emit)
    return emit.reread(row, x.layout.without((axis,)), operation.outputs[0].name)


def _gathered_layout(layout: Layout, axis: int, shape: tuple[int, ...], rank: int) -> Layout:
    if rank == 0:
        return layout.without((axis,))
    return layout.of(shape) if rank == 1 else Layout.plain(shape)


def _wrapped_indices(operation: Operation, emit: Emitter, size: int) -> tuple[View, int]:
    """Indices from 0 to ``size`` - 1 in plain layout, and their rank."""
    operand = operation.inputs[1]
    assert operand is not None
    if operand.constant is not None:
        return emit.constant("indices", np.mod(operand.constant, size)), operand.rank
    held = emit.plain(emit.take(operand))
    divisor = emit.constant("size", np.full((1,) * operand.rank, size, held.tensor.dtype))
    return emit.binary("FLOOR_MOD", held, divisor, Options("FloorModOptions")), operand.rank


def _not_negative(operation: Operation) -> Refusal:
    pads = _integers(operation, 1) or []
    return ("negative pads cut the tensor", "use Slice") if min(pads, default=0) < 0 else None


def _fill_is_zero(operation: Operation) -> Refusal:
    """On codes the fill is the code of zero; any other number would need a code of its own."""
    return (
        None
        if _pad_value(operation) == 0
        else ("padding codes with a number other than zero has no kernel", "leave this node float (placement)")
    )


def _has_axes_input(operation: Operation) -> bool:
    return len(operation.inputs) > 3 and operation.inputs[3] is not None


@lowers(
    "Pad",
    honours={"mode"},
    objects=(constant_inputs(1, 2, 3), attribute_is("mode", "constant", "reflect", "edge", "wrap"), _not_negative),
    integer=(equal_encodings, _fill_is_zero),
)
def pad(operation: Operation, emit: Emitter) -> View:
    """ONNX Pad-21 -> PAD (zeros, or the code of zero) or PADV2 (another constant); other modes repeat elements of the tensor."""
    x = _unmerged(emit.take(operation.inputs[0]), emit)
    mode = str(operation.attributes.get("mode", "constant"))
    if mode != "constant":
        return _repeating(operation, emit, x, _NUMPY_MODES[mode])
    table = [_paddings(operation)[axis] for axis in x.layout.order]
    paddings = emit.constant("paddings", np.asarray(table, np.int64))
    output = emit.output(operation.outputs[0], x.layout.of(operation.outputs[0].shape))
    value = _pad_value(operation)
    if value == 0:
        return emit.run("PAD", [x, paddings], output, Options("PadOptions"))
    return emit.run("PADV2", [x, paddings, emit.scalar(value, x)], output, Options("PadV2Options"))


# ONNX Pad-21 names its modes as numpy.pad does, and means the same.
_NUMPY_MODES: dict[str, Literal["reflect", "edge", "wrap"]] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def _repeating(operation: Operation, emit: Emitter, x: View, mode: Literal["reflect", "edge", "wrap"]) -> View:
    for axis, pads in enumerate(_paddings(operation)):
        if any(pads):
            x = picked(x, axis, np.pad(np.arange(x.shape[axis]), pads, mode), emit)
    return x


# XNNPACK concatenates so many tensors; a GATHER is left to the builtin kernel.
MOST_PARTS = 5


def picked(x: View, axis: int, indices: NDArray[np.int64], emit: Emitter) -> View:
    """Elements ``indices`` of the hub's ``axis``: neighbours together as SLICEs that are joined, or a GATHER where that takes too many."""
    if repeats(indices, x.shape[axis]):
        return _repeated(x, axis, repeats(indices, x.shape[axis]), emit)
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    layout = x.layout.of(tuple(len(indices) if held == axis else size for held, size in enumerate(x.shape)))
    if len(runs) > MOST_PARTS:
        options = Options("GatherOptions", {"axis": x.layout.position(axis), "batchDims": 0})
        return emit.run("GATHER", [x, emit.constant("indices", indices)], emit.like(x, layout, "picked"), options)
    parts = [_part(x, axis, int(run[0]), len(run), emit) for run in runs]
    return parts[0] if len(parts) == 1 else concatenated(parts, axis, emit.like(x, layout, "joined"), emit)


def repeats(indices: NDArray[np.int64], size: int) -> int:
    """How often each of the ``size`` elements of an axis is there, in order and as often as one CONCATENATION can say; 0 for others."""
    count = len(indices) // size
    is_even = 1 < count <= MOST_PARTS and np.array_equal(indices, np.repeat(np.arange(size), count))
    return count if is_even else 0


def _repeated(x: View, axis: int, count: int, emit: Emitter) -> View:
    """Every element of the hub's ``axis`` ``count`` times, its stored row joined with itself."""
    position = x.layout.position(axis)
    before, row = math.prod(x.stored[: position + 1]), math.prod(x.stored[position + 1 :])
    rows = emit.reread(View(x.tensor, Layout.plain(x.stored), x.non_negative), Layout.plain((before, row)))
    joined = concatenated([rows] * count, 1, emit.like(rows, Layout.plain((before, row * count)), "repeated"), emit)
    return emit.reread(joined, x.layout.of(tuple(size * count if held == axis else size for held, size in enumerate(x.shape))))


def _part(x: View, axis: int, begin: int, count: int, emit: Emitter) -> View:
    """``count`` elements of the hub's ``axis`` from ``begin`` on."""
    if count == x.shape[axis]:
        return x
    layout = x.layout.of(tuple(count if held == axis else size for held, size in enumerate(x.shape)))
    return _sliced(x, axis, begin, emit.like(x, layout, "part"), emit)


def _sliced(x: View, axis: int, begin: int, output: View, emit: Emitter) -> View:
    """As many elements of the hub's ``axis`` from ``begin`` on as ``output`` holds."""
    begins = emit.indices("begin", [begin if held == axis else 0 for held in x.layout.order])
    return emit.run("SLICE", [x, begins, emit.indices("size", output.stored)], output, Options("SliceOptions"))


def _pad_value(operation: Operation) -> Any:
    operand = operation.inputs[2] if len(operation.inputs) > 2 else None
    return 0 if operand is None else operand.real().item()


def _paddings(operation: Operation) -> list[tuple[int, int]]:
    """(before, after) for each axis of the hub's input."""
    source, pads = operation.inputs[0], _integers(operation, 1)
    assert source is not None and pads is not None
    axes = (_integers(operation, 3) if _has_axes_input(operation) else None) or list(range(source.rank))
    table = [(0, 0)] * source.rank
    for index, axis in enumerate(axes):
        table[axis] = (pads[index], pads[len(axes) + index])
    return table


def _count_fits(operation: Operation) -> Refusal:
    source, count = operation.inputs[0], _integers(operation, 1)
    assert source is not None and count is not None
    axis = int(operation.attributes.get("axis", -1)) % source.rank
    return None if 0 < count[0] <= source.shape[axis] else (f"k = {count[0]} of {source.shape[axis]} elements", "use 1 <= k <= the axis")


def _ordered_type(operation: Operation) -> Refusal:
    source = operation.inputs[0]
    assert source is not None
    return None if source.dtype != "bool" else ("TopK of bool has no kernel", "cast to int32 first")


@lowers("TopK", honours={"axis", "largest", "sorted"}, objects=(constant_inputs(1), _count_fits, _ordered_type))
def top_k(operation: Operation, emit: Emitter) -> list[View]:
    """ONNX TopK-11 -> TOPK_V2 over the last stored axis, always sorted; of equals the first comes first in both.

    The smallest are the largest of the negated tensor; whole numbers are mirrored as -1 - x, which has no overflow.
    """
    x, count = last_axis(emit.take(operation.inputs[0]), int(operation.attributes.get("axis", -1)), emit), _integers(operation, 1)
    assert count is not None
    is_smallest = not operation.attributes.get("largest", 1)
    source = _mirrored(x, emit) if is_smallest else x
    layout = x.layout.of(operation.outputs[0].shape)
    values, indices = emit.like(x, layout, "largest"), emit.output(Operand("indices", layout.shape, "int32"), layout)
    emit.run_many("TOPK_V2", [source, emit.indices("k", count[0])], [values, indices], Options("TopKV2Options"))
    return [_mirrored(values, emit) if is_smallest else values, indices][: len(operation.outputs)]


def _mirrored(x: View, emit: Emitter) -> View:
    if x.tensor.dtype == "float32":
        return emit.unary("NEG", x)
    return emit.run("SUB", [emit.scalar(-1, x), x], emit.like(x, x.layout, "mirrored"), arithmetic("SUB"))


def last_axis(x: View, axis: int, emit: Emitter) -> View:
    """The tensor with the hub's ``axis`` last, where some kernels look."""
    x = _unmerged(x, emit)
    held = axis % len(x.shape)
    return emit.ordered(x, (*(other for other in x.layout.order if other != held), held))
