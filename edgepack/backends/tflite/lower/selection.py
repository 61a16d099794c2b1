"""Operators that take or add parts of a tensor: Slice, Split, Gather, Pad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgepack.backends.tflite.emit import Emitter
from edgepack.backends.tflite.layout import Layout
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import Refusal, attribute_is, constant_inputs, equal_encodings, lowers
from edgepack.quantize.fold import Operation


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


def _is_not_empty(operation: Operation) -> Refusal:
    shape = operation.outputs[0].shape
    return ("the result has no elements", "remove the node") if 0 in shape else None


def _unmerged(view: View, emit: Emitter) -> View:
    return emit.plain(view) if view.layout.merged else view


@lowers("Slice", objects=(constant_inputs(1, 2, 3, 4), _is_not_empty), integer=(equal_encodings,))
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
    """ONNX Split-18 -> SPLIT for equal parts, else SPLIT_V."""
    x = _unmerged(emit.take(operation.inputs[0]), emit)
    axis = int(operation.attributes.get("axis", 0)) % len(x.shape)
    outputs = [emit.output(operand, x.layout.of(operand.shape)) for operand in operation.outputs]
    sizes = [operand.shape[axis] for operand in operation.outputs]
    position = emit.indices("axis", x.layout.position(axis))
    count = {"numSplits": len(sizes)}
    if len(set(sizes)) == 1:
        emit.run_many("SPLIT", [position, x], outputs, Options("SplitOptions", count))
    else:
        emit.run_many("SPLIT_V", [x, emit.indices("sizes", sizes), position], outputs, Options("SplitVOptions", count))
    return outputs


@lowers("Gather", honours={"axis"}, integer=(equal_encodings,))
def gather(operation: Operation, emit: Emitter) -> View:
    """ONNX Gather-13 -> GATHER. TFLite takes no negative index, so constants are wrapped here and others by FLOOR_MOD.

    One constant index is a SLICE, which delegates take.
    """
    x = _unmerged(emit.take(operation.inputs[0]), emit)
    axis = int(operation.attributes.get("axis", 0)) % len(x.shape)
    index = operation.inputs[1]
    if index is not None and index.constant is not None and index.rank == 0:
        return _taken(operation, emit, x, axis, int(index.constant) % x.shape[axis])
    indices, rank = _wrapped_indices(operation, emit, x.shape[axis])
    if rank > 1:
        x = emit.plain(x)
    layout = _gathered_layout(x.layout, axis, operation.outputs[0].shape, rank)
    options = Options("GatherOptions", {"axis": x.layout.position(axis), "batchDims": 0})
    return emit.run("GATHER", [x, indices], emit.output(operation.outputs[0], layout), options)


def _taken(operation: Operation, emit: Emitter, x: View, axis: int, index: int) -> View:
    """Element ``index`` of ``axis``, the axis dropped."""
    part = x.layout.of(tuple(1 if held == axis else size for held, size in enumerate(x.shape)))
    begin = [index if held == axis else 0 for held in x.layout.order]
    inputs = [x, emit.indices("begin", begin), emit.indices("size", part.stored)]
    row = emit.run("SLICE", inputs, emit.like(x, part, "taken"), Options("SliceOptions"))
    return emit.reread(row, x.layout.without((axis,)), operation.outputs[0].name)


def _gathered_layout(layout: Layout, axis: int, shape: tuple[int, ...], rank: int) -> Layout:
    if rank == 0:
        return layout.without((axis,))
    return layout.of(shape) if rank == 1 else Layout.plain(shape)


def _wrapped_indices(operation: Operation, emit: Emitter, size: int) -> tuple[View, int]:
    operand = operation.inputs[1]
    assert operand is not None
    if operand.constant is not None:
        return emit.constant("indices", np.mod(operand.constant, size)), operand.rank
    held = emit.plain(emit.take(operand))
    return emit.binary("FLOOR_MOD", held, emit.scalar(size, held), Options("FloorModOptions")), operand.rank


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
    objects=(constant_inputs(1, 2, 3), attribute_is("mode", "constant", "reflect"), _not_negative),
    integer=(equal_encodings, _fill_is_zero),
)
def pad(operation: Operation, emit: Emitter) -> View:
    """ONNX Pad-21 -> PAD (zeros, or the code of zero), PADV2 (another constant), MIRROR_PAD (reflect)."""
    x = _unmerged(emit.take(operation.inputs[0]), emit)
    table = [_paddings(operation)[axis] for axis in x.layout.order]
    paddings = emit.constant("paddings", np.asarray(table, np.int64))
    output = emit.output(operation.outputs[0], x.layout.of(operation.outputs[0].shape))
    if operation.attributes.get("mode", "constant") == "reflect":
        return emit.run("MIRROR_PAD", [x, paddings], output, Options("MirrorPadOptions", {"mode": "REFLECT"}))
    value = _pad_value(operation)
    if value == 0:
        return emit.run("PAD", [x, paddings], output, Options("PadOptions"))
    return emit.run("PADV2", [x, paddings, emit.scalar(value, x)], output, Options("PadV2Options"))


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
