"""Operators that move elements: Concat, Split, Slice, Pad, Reshape, Flatten, Transpose, Squeeze, Unsqueeze, Gather,
DepthToSpace, SpaceToDepth, Expand, Tile."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.lower.indices import from_zero
from edgepack.backends.coreml.operations import MAX_RANK, REARRANGE
from edgepack.backends.coreml.table import REALS, axes_of, constant_at, lowers, needs_constants, only, required
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
    """Padding before and after every dimension; negative where elements go."""
    rank = required(operation, 0).rank
    given = constant_at(operation, 1, "pads")
    axes = constant_at(operation, 3, default=list(range(rank)))
    widths = [(0, 0)] * rank
    for index, axis in enumerate(axes):
        widths[axis] = (int(given[index]), int(given[index + len(axes)]))
    return widths


def _padding(operation: Operation) -> tuple[str, str] | None:
    kept = [
        size + min(before, 0) + min(after, 0) for size, (before, after) in zip(required(operation, 0).shape, _pads(operation), strict=True)
    ]
    return ("takes all elements of an axis away", "leave the Pad out of the student") if min(kept, default=1) < 1 else None


@lowers(
    "Pad",
    honours={"mode", "pads", "value"},
    reals=False,
    objects=(needs_constants(1, 2, 3), only("mode", *_PAD_MODES, "wrap"), _padding),
)
def pad(operation: Operation, emit: Emitter) -> Var:
    """ONNX Pad-21. Negative widths take elements away first."""
    widths = _pads(operation)
    cut = [
        range(max(-before, 0), size - max(-after, 0)) for size, (before, after) in zip(required(operation, 0).shape, widths, strict=True)
    ]
    x = emit.value(required(operation, 0))
    x = _taken(x, cut, emit) if min(map(min, widths)) < 0 else x
    grown = [(max(before, 0), max(after, 0)) for before, after in widths]
    if not any(map(any, grown)):
        return x
    mode = operation.attributes.get("mode", "constant")
    is_real = required(operation, 0).dtype in REALS
    if mode == "constant":
        value = constant_at(operation, 2, "value", 0.0)
        return _padded(x, grown, value, operation.name, emit) if is_real else _surrounded(x, grown, value, emit)
    if is_real and _is_native(mode, grown, x.shape):
        flat = [size for pair in grown[-_MIRRORED:] for size in pair]
        return emit("pad", x=x, pad=flat, mode=_PAD_MODES[mode], constant_val=emit.number(0))
    return _repeated(x, grown, mode, emit)


def _padded(x: Var, widths: Sequence[tuple[int, int]], value: float, name: str, emit: Emitter) -> Var:
    fill = emit.reals(np.asarray(value, np.float64).reshape(()), f"{name} value")
    return emit("pad", x=x, pad=[size for pair in widths for size in pair], mode="constant", constant_val=fill[()])


def _surrounded(x: Var, widths: Sequence[tuple[int, int]], value: int, emit: Emitter) -> Var:
    """Integers and booleans, which MIL's pad does not take, between blocks of a constant, an axis at a time."""
    dtype = bool if emit.is_boolean(x) else np.int32
    for axis, pair in enumerate(widths):
        shapes = [[*x.shape[:axis], width, *x.shape[axis + 1 :]] for width in pair]
        blocks = [np.full(shape, value, dtype) if shape[axis] else None for shape in shapes]
        values = [held for held in (blocks[0], x, blocks[1]) if held is not None]
        x = emit("concat", values=values, axis=axis) if len(values) > 1 else x
    return x


def _is_native(mode: str, widths: Sequence[tuple[int, int]], shape: Sequence[int]) -> bool:
    """Whether MIL's pad documents this: the last two dimensions, no further than the image reaches."""
    limits = [size - (mode == "reflect") for size in shape]
    fits = all(max(pair) <= limit for pair, limit in zip(widths, limits, strict=True))
    return mode in _PAD_MODES and fits and not any(map(any, widths[:-_MIRRORED])) and len(shape) >= _MIRRORED


def _repeated(x: Var, widths: Sequence[tuple[int, int]], mode: str, emit: Emitter) -> Var:
    """Mirrored, repeated or wrapped elements, taken by index an axis at a time."""
    held = emit.as_integer(x)
    for axis, pair in enumerate(widths):
        if any(pair):
            indices = np.pad(np.arange(x.shape[axis], dtype=np.int32), pair, mode)  # type: ignore[call-overload]
            held = emit("gather", x=held, indices=indices, axis=axis)
    return emit("cast", x=held, dtype="bool") if emit.is_boolean(x) else held


@lowers("Reshape", honours={"allowzero"}, reals=False, objects=(needs_constants(1),))
@lowers("Flatten", honours={"axis"}, reals=False)
def reshape(operation: Operation, emit: Emitter) -> Var:
    """ONNX Reshape-21 and Flatten-21: the hub's shapes are static, so the output's own shape says it all."""
    source, shape = required(operation, 0), list(operation.outputs[0].shape)
    x = emit.value(source)
    if not shape:  # MIL takes no empty list for a shape
        return emit("squeeze", x=x, axes=list(range(source.rank))) if source.rank else x
    return emit("reshape", x=x, shape=shape)


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


@lowers("Gather", honours={"axis"}, reals=False)
def gather(operation: Operation, emit: Emitter) -> Var:
    """ONNX Gather-13. Negative indices count from the end; from iOS 17 on Core ML does not wrap them, so it is done here."""
    x, indices = required(operation, 0), required(operation, 1)
    axis, value = operation.attributes.get("axis", 0), emit.value(x)
    places = from_zero(indices, x.shape[axis], emit)
    found = emit("gather", x=emit.as_integer(value), indices=places, axis=axis)
    return emit("cast", x=found, dtype="bool") if emit.is_boolean(value) else found


def _is_image(operation: Operation) -> tuple[str, str] | None:
    rank = required(operation, 0).rank
    return None if rank == len(_IMAGE) else (f"rearranges rank {rank}", "use an input of rank 4")


_IMAGE = ("N", "C", "H", "W")
_BLOCK_MODES = only("mode", "DCR", "CRD")


@lowers("DepthToSpace", honours={"blocksize", "mode"}, reals=False, objects=(_BLOCK_MODES, _is_image))
def depth_to_space(operation: Operation, emit: Emitter) -> Var:
    """ONNX DepthToSpace-13: mode DCR is MIL's depth_to_space, CRD (torch's PixelShuffle) its pixel_shuffle; both take reals only."""
    x, block = required(operation, 0), operation.attributes["blocksize"]
    is_outer = operation.attributes.get("mode", "DCR") == "DCR"
    if x.dtype in REALS and block > 1:
        return emit("depth_to_space", x=emit.value(x), block_size=block) if is_outer else _shuffled(emit.value(x), block, emit)
    batch, channels, height, width = x.shape
    parts = (block, block, channels // block**2) if is_outer else (channels // block**2, block, block)
    perm = (0, 3, 4, 1, 5, 2) if is_outer else (0, 1, 4, 2, 5, 3)
    return rearranged(emit.value(x), (batch, *parts, height, width), perm, operation.outputs[0].shape, emit)


def _shuffled(x: Var, block: int, emit: Emitter) -> Var:
    return emit("pixel_shuffle", x=x, upscale_factor=block)


@lowers("SpaceToDepth", honours={"blocksize"}, reals=False, objects=(_is_image,))
def space_to_depth(operation: Operation, emit: Emitter) -> Var:
    """ONNX SpaceToDepth-13: the place in the block is the outer part of the channel, as in MIL's space_to_depth, which takes reals only."""
    x, block = required(operation, 0), operation.attributes["blocksize"]
    if x.dtype in REALS and block > 1:
        return emit("space_to_depth", x=emit.value(x), block_size=block)
    batch, channels, height, width = x.shape
    sizes = (batch, channels, height // block, block, width // block, block)
    return rearranged(emit.value(x), sizes, (0, 3, 5, 1, 2, 4), operation.outputs[0].shape, emit)


@lowers(REARRANGE, honours={"sizes", "perm"}, reals=False)
def rearrange(operation: Operation, emit: Emitter) -> Var:
    """A Reshape to more dimensions than Core ML has, a Transpose there and a Reshape back, which ``read_hub`` joined."""
    sizes, perm = operation.attributes["sizes"], operation.attributes["perm"]
    return rearranged(emit.value(required(operation, 0)), sizes, perm, operation.outputs[0].shape, emit)


def rearranged(x: Var, sizes: Sequence[int], perm: Sequence[int], shape: Sequence[int], emit: Emitter) -> Var:
    """``x`` seen with ``sizes``, of any number, its dimensions permuted by ``perm``, and the result seen with ``shape``."""
    for before, order in transpositions(sizes, perm):
        x = emit("transpose", x=emit("reshape", x=x, shape=list(before)), perm=list(order))
    return emit("reshape", x=x, shape=list(shape))


def transpositions(sizes: Sequence[int], perm: Sequence[int]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(shape, permutation) of transposes of rank 5 at most that together permute an array of ``sizes``.

    Dimensions of size 1 go and neighbours that stay together are one dimension. If more than 5 are left, the run of dimensions that is
    wanted next is moved to the front of the rest, one transpose of rank 4 each.
    """
    merged, order = _merged(sizes, perm)
    if order == sorted(order):
        return []
    if len(merged) <= MAX_RANK:
        return [(tuple(merged), tuple(order))]
    steps: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    held = list(range(len(merged)))
    for done in range(len(order)):
        if (at := held.index(order[done])) == done:
            continue
        end = at + 1
        while end < len(held) and held[end] == order[done + end - at]:
            end += 1
        spans = held[:done], held[done:at], held[at:end], held[end:]
        steps.append((tuple(prod(merged[axis] for axis in span) for span in spans), (0, 2, 1, 3)))
        held = [*spans[0], *spans[2], *spans[1], *spans[3]]
    return steps


def _merged(sizes: Sequence[int], perm: Sequence[int]) -> tuple[list[int], list[int]]:
    """Sizes and permutation without dimensions of size 1 and with runs of neighbours as one dimension."""
    kept = [axis for axis in perm if sizes[axis] > 1]
    dense = {axis: place for place, axis in enumerate(sorted(kept))}
    runs: list[list[int]] = []
    for axis in kept:
        if runs and dense[axis] == dense[runs[-1][-1]] + 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    first = sorted(run[0] for run in runs)
    return [prod(sizes[axis] for axis in run) for run in sorted(runs)], [first.index(run[0]) for run in runs]


@lowers("Expand", "Tile", reals=False, objects=(needs_constants(1),))
def tile(operation: Operation, emit: Emitter) -> Var:
    """ONNX Expand-13 and Tile-13: the elements of each dimension as often as the output is longer."""
    return emit.spread(emit.value(required(operation, 0)), operation.outputs[0].shape)
