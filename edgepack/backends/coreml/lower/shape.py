"""Operators that move elements: Concat, Split, Slice, Pad, Reshape, Flatten, Transpose, Squeeze, Unsqueeze, Gather,
DepthToSpace, Expand, Tile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import axes_of, constant_at, lowers, needs_constants, only, operand_at, required
from edgepack.quantize.fold import Operation


@lowers("Concat", honours={"axis"}, reals=False)
def concat(operation: Operation, emit: Emitter) -> Var:
    """ONNX Concat-13."""
    values = [emit.value(operand) for operand in operation.inputs if operand is not None]
    return emit("concat", values=values, axis=operation.attributes["axis"])


@lowers("Split", honours={"axis", "num_outputs", "split"}, reals=False, objects=(needs_constants(1),))
def split(operation: Operation, emit: Emitter) -> Sequence[Var]:
    """ONNX Split-18; the sizes are those of the outputs."""
    x = emit.value(required(operation, 0))
    axis = operation.attributes.get("axis", 0)
    sizes = [output.shape[axis] for output in operation.outputs]
    return [x] if len(sizes) == 1 else list(emit("split", x=x, split_sizes=sizes, axis=axis))


@lowers("Slice", honours={"starts", "ends", "axes"}, reals=False, objects=(needs_constants(1, 2, 3, 4),))
def slice_(operation: Operation, emit: Emitter) -> Var:
    """ONNX Slice-13. A backward step is the same elements taken forward, then reversed."""
    x = required(operation, 0)
    starts, ends = constant_at(operation, 1, "starts"), constant_at(operation, 2, "ends")
    axes = constant_at(operation, 3, "axes", list(range(len(starts))))
    steps = constant_at(operation, 4, default=[1] * len(starts))
    spans = [range(size) for size in x.shape]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        spans[axis] = range(x.shape[axis])[slice(start, end, step)]
    backward = [axis for axis, span in enumerate(spans) if span.step < 0]
    forward = [span[::-1] if span.step < 0 else span for span in spans]
    taken = _taken(emit.value(x), forward, emit)
    return emit("reverse", x=taken, axes=backward) if backward else taken


def _taken(x: Var, spans: Sequence[range], emit: Emitter) -> Var:
    return emit(
        "slice_by_index",
        x=x,
        begin=[span.start for span in spans],
        end=[span[-1] + 1 for span in spans],
        stride=[span.step for span in spans],
    )


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
# Core ML mirrors and repeats only in the last two dimensions.
_MIRRORED = 2


def _pads(operation: Operation) -> list[tuple[int, int]]:
    """Padding before and after every dimension."""
    rank = required(operation, 0).rank
    given = constant_at(operation, 1, "pads")
    axes = constant_at(operation, 3, default=list(range(rank)))
    widths = [(0, 0)] * rank
    for index, axis in enumerate(axes):
        widths[axis] = (given[index], given[index + len(axes)])
    return widths


def _padding(operation: Operation) -> tuple[str, str] | None:
    widths = _pads(operation)
    if min(min(pair) for pair in widths) < 0:
        return "has negative pads", "slice the input instead"
    if operation.attributes.get("mode", "constant") != "constant" and any(any(pair) for pair in widths[:-_MIRRORED]):
        return "mirrors or repeats other than the last two dimensions", "transpose around the Pad in the student"
    return None


@lowers("Pad", honours={"mode", "pads", "value"}, objects=(needs_constants(1, 2, 3), only("mode", *_PAD_MODES), _padding))
def pad(operation: Operation, emit: Emitter) -> Var:
    """ONNX Pad-21 in modes constant, reflect and edge."""
    widths = _pads(operation)
    mode = operation.attributes.get("mode", "constant")
    value = constant_at(operation, 2, "value", 0.0) if mode == "constant" else 0.0
    fill = emit.reals(np.asarray(value, np.float64).reshape(()), f"{operation.name} value")
    kept = widths if mode == "constant" else widths[-_MIRRORED:]
    flat = [size for pair in kept for size in pair]
    return emit("pad", x=emit.value(required(operation, 0)), pad=flat, mode=_PAD_MODES[mode], constant_val=fill[()])


@lowers("Reshape", honours={"allowzero"}, reals=False, objects=(needs_constants(1),))
@lowers("Flatten", honours={"axis"}, reals=False)
def reshape(operation: Operation, emit: Emitter) -> Var:
    """ONNX Reshape-21 and Flatten-21: the hub's shapes are static, so the output's own shape says it all."""
    return emit("reshape", x=emit.value(required(operation, 0)), shape=list(operation.outputs[0].shape))


@lowers("Transpose", honours={"perm"}, reals=False)
def transpose(operation: Operation, emit: Emitter) -> Var:
    """ONNX Transpose-21; without ``perm`` the dimensions are reversed."""
    x = required(operation, 0)
    return emit("transpose", x=emit.value(x), perm=operation.attributes.get("perm", list(range(x.rank))[::-1]))


@lowers("Squeeze", honours={"axes"}, reals=False, objects=(needs_constants(1),))
def squeeze(operation: Operation, emit: Emitter) -> Var:
    """ONNX Squeeze-21; without axes every dimension of size 1 goes."""
    x = required(operation, 0)
    ones = [axis for axis, size in enumerate(x.shape) if size == 1]
    axes = axes_of(operation, 1, ones)
    return emit("squeeze", x=emit.value(x), axes=axes) if axes else emit.value(x)


@lowers("Unsqueeze", honours={"axes"}, reals=False, objects=(needs_constants(1),))
def unsqueeze(operation: Operation, emit: Emitter) -> Var:
    """ONNX Unsqueeze-21; axes count in the output."""
    return emit("expand_dims", x=emit.value(required(operation, 0)), axes=axes_of(operation, 1, ()))


def _indices(operation: Operation) -> tuple[str, str] | None:
    indices = operand_at(operation, 1)
    if indices is not None and indices.constant is not None:
        return None
    return "takes indices computed at run time", "Core ML from iOS 17 on does not wrap negative ones; use constant indices"


@lowers("Gather", honours={"axis"}, reals=False, objects=(_indices,))
def gather(operation: Operation, emit: Emitter) -> Var:
    """ONNX Gather-13 with constant indices; negative ones count from the end and are wrapped here."""
    x, indices = required(operation, 0), required(operation, 1)
    axis = operation.attributes.get("axis", 0)
    assert indices.constant is not None
    wrapped = np.where(indices.constant < 0, indices.constant + x.shape[axis], indices.constant).astype(np.int32)
    return emit("gather", x=emit.value(x), indices=wrapped[()], axis=axis)


@lowers("DepthToSpace", honours={"blocksize", "mode"}, objects=(only("mode", "DCR", "CRD"),))
def depth_to_space(operation: Operation, emit: Emitter) -> Var:
    """ONNX DepthToSpace-13: mode DCR is MIL's depth_to_space, CRD (torch's PixelShuffle) its pixel_shuffle."""
    x, block = emit.value(required(operation, 0)), operation.attributes["blocksize"]
    if operation.attributes.get("mode", "DCR") == "DCR":
        return emit("depth_to_space", x=x, block_size=block)
    return emit("pixel_shuffle", x=x, upscale_factor=block)


@lowers("Expand", "Tile", reals=False, objects=(needs_constants(1),))
def tile(operation: Operation, emit: Emitter) -> Var:
    """ONNX Expand-13 and Tile-13: the elements of each dimension as often as the output is longer."""
    x, shape = required(operation, 0), operation.outputs[0].shape
    aligned = (1,) * (len(shape) - x.rank) + x.shape
    value = emit.value(x) if aligned == x.shape else emit("reshape", x=emit.value(x), shape=list(aligned))
    repeats = [after // before for before, after in zip(aligned, shape, strict=True)]
    return emit("tile", x=value, reps=repeats) if max(repeats, default=1) > 1 else value
