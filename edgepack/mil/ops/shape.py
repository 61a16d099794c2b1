"""Moving elements without computing (coremltools iOS15/tensor_transformation.py, tensor_operation.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements


@implements("reshape", accepts=("x", "shape"), selects=True)
def reshape(operation: MilOperation) -> Kernel:
    """The same elements in another shape, of which one size may be -1: what is left."""
    return operation.bind(("x", "shape"), lambda x, shape: x.reshape(_sizes(x.shape, shape)))


def _sizes(held: tuple[int, ...], shape: Array) -> tuple[int, ...]:
    """``shape`` with every 0 replaced by the size held at the same place from the end, or 1 (iOS17/tensor_transformation.py)."""
    aligned = ((1,) * len(shape) + held)[len(held) :]
    return tuple(same if size == 0 else int(size) for size, same in zip(shape, aligned, strict=True))


@implements("squeeze", accepts=("x", "axes"), selects=True)
def squeeze(operation: MilOperation) -> Kernel:
    """Without the dimensions ``axes``, all of size 1; by default all that are."""
    axes = operation.integers("axes", ()) or None
    return operation.bind(("x",), lambda x: np.squeeze(x, axes))


@implements("expand_dims", accepts=("x", "axes"), selects=True)
def expand_dims(operation: MilOperation) -> Kernel:
    """With dimensions of size 1 at ``axes``, counted in the output."""
    axes = operation.integers("axes", ())
    return operation.bind(("x",), lambda x: np.expand_dims(x, axes))


@implements("flatten2d", accepts=("x", "axis"))
def flatten2d(operation: MilOperation) -> Kernel:
    """The dimensions before ``axis`` (default 1) as one, and those from it on as the other."""
    (axis,) = operation.integers("axis", (1,))
    return operation.bind(("x",), lambda x: x.reshape(int(np.prod(x.shape[:axis])), -1))


@implements("shape", accepts=("x",))
def shape_of(operation: MilOperation) -> Kernel:
    """The sizes of ``x``."""
    return operation.bind(("x",), lambda x: np.asarray(x.shape))


@implements("transpose", accepts=("x", "perm"), selects=True)
def transpose(operation: MilOperation) -> Kernel:
    """Dimension ``i`` of the output is dimension ``perm[i]`` of ``x``."""
    perm = operation.integers("perm", ())
    return operation.bind(("x",), lambda x: np.ascontiguousarray(x.transpose(perm)))


@implements("concat", accepts=("values", "axis", "interleave"), selects=True)
def concat(operation: MilOperation) -> Kernel:
    """The values one after the other along ``axis``, or their elements in turn."""
    (axis,) = operation.integers("axis", ())
    if operation.flag("interleave"):
        return operation.bind(("values",), lambda values: _interleaved(values, axis))
    return operation.bind(("values",), lambda values: np.concatenate(values, axis=axis))


def _interleaved(values: list[Array], axis: int) -> Array:
    place = axis % values[0].ndim
    sizes = [size * len(values) if at == place else size for at, size in enumerate(values[0].shape)]
    return np.stack(values, axis=place + 1).reshape(sizes)


@implements("stack", accepts=("values", "axis"))
def stack(operation: MilOperation) -> Kernel:
    """The values along a new ``axis``."""
    (axis,) = operation.integers("axis", ())
    return operation.bind(("values",), lambda values: np.stack(values, axis=axis))


@implements("split", accepts=("x", "split_sizes", "num_splits", "axis"), selects=True)
def split(operation: MilOperation) -> Kernel:
    """Parts along ``axis``: of ``split_sizes``, or ``num_splits`` equal ones."""
    (axis,) = operation.integers("axis", ())
    if not operation.has("split_sizes"):
        return operation.bind(("x",), lambda x: np.split(x, len(operation.outputs), axis=axis))
    return operation.bind(("x", "split_sizes"), lambda x, sizes: np.split(x, np.cumsum(sizes)[:-1], axis=axis))


@implements("slice_by_index", accepts=("x", "begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask"), selects=True)
def slice_by_index(operation: MilOperation) -> Kernel:
    """``x[begin:end:stride]`` in every dimension; a mask leaves one end open or takes the single element at ``begin``."""
    taken = slices(operation)

    def kernel(x: Array, begin: Array, end: Array, stride: Array | None) -> Array:
        return np.asarray(x[taken(x.ndim, begin, end, stride)])

    return operation.bind(("x", "begin", "end", "stride"), kernel, stride=None)


# From a rank and begin, end and stride (None: all 1) to what numpy indexes with.
Slices = Callable[[int, Array, Array, Array | None], tuple[slice | int, ...]]


def slices(operation: MilOperation) -> Slices:
    """The slice of an operation with ``slice_by_index``'s parameters."""

    def taken(rank: int, begin: Array, end: Array, stride: Array | None) -> tuple[slice | int, ...]:
        strides = [1] * rank if stride is None else stride.tolist()
        masks = [operation.integers(name, (0,) * rank) for name in ("begin_mask", "end_mask", "squeeze_mask")]
        entries = zip(begin.tolist(), end.tolist(), strides, *masks, strict=True)
        return tuple(_span(*entry) for entry in entries)

    return taken


@implements("slice_by_size", accepts=("x", "begin", "size"), selects=True)
def slice_by_size(operation: MilOperation) -> Kernel:
    """``size`` elements from ``begin`` on in every dimension; -1 means all that follow."""

    def kernel(x: Array, begin: Array, size: Array) -> Array:
        starts = [start % length for start, length in zip(begin.tolist(), x.shape, strict=True)]
        ends = [None if count < 0 else start + count for start, count in zip(starts, size.tolist(), strict=True)]
        return np.asarray(x[tuple(map(slice, starts, ends))])

    return operation.bind(("x", "begin", "size"), kernel)


@implements("reverse", accepts=("x", "axes"), selects=True)
def reverse(operation: MilOperation) -> Kernel:
    """Elements in the opposite order along ``axes``, all by default."""
    axes = operation.integers("axes", range(operation.outputs[0].rank))
    return operation.bind(("x",), lambda x: np.flip(x, axes))


@implements("tile", accepts=("x", "reps"), selects=True)
def tile(operation: MilOperation) -> Kernel:
    """``x`` repeated ``reps[i]`` times along dimension ``i``."""
    return operation.bind(("x", "reps"), lambda x, reps: np.tile(x, tuple(reps)))


@implements("depth_to_space", accepts=("x", "block_size"), selects=True)
def depth_to_space(operation: MilOperation) -> Kernel:
    """Channels to a block of pixels; of channel ``(i * b + j) * C' + c``, the block's place (i, j) is the outer part."""
    (block,) = operation.integers("block_size", ())
    return operation.bind(("x",), lambda x: _blocks(x.reshape(x.shape[0], block, block, -1, *x.shape[2:]).transpose(0, 3, 4, 1, 5, 2)))


@implements("pixel_shuffle", accepts=("x", "upscale_factor"), selects=True)
def pixel_shuffle(operation: MilOperation) -> Kernel:
    """Channels to a block of pixels; of channel ``(c * b + i) * b + j``, the block's place (i, j) is the inner part."""
    (block,) = operation.integers("upscale_factor", ())
    return operation.bind(("x",), lambda x: _blocks(x.reshape(x.shape[0], -1, block, block, *x.shape[2:]).transpose(0, 1, 4, 2, 5, 3)))


def _blocks(x: Array) -> Array:
    """(N, C, H, b, W, b) -> (N, C, H * b, W * b)."""
    batch, channels, height, block, width, _ = x.shape
    return x.reshape(batch, channels, height * block, width * block)


@implements("space_to_depth", accepts=("x", "block_size"), selects=True)
def space_to_depth(operation: MilOperation) -> Kernel:
    """The inverse of ``depth_to_space``: pixel (i, j) of a block of channel ``c`` goes to channel ``(i * b + j) * C + c``."""
    (block,) = operation.integers("block_size", ())
    return operation.bind(("x",), lambda x: _channels(_pixels(x, block).transpose(0, 3, 5, 1, 2, 4)))


@implements("pixel_unshuffle", accepts=("x", "downscale_factor"), selects=True)
def pixel_unshuffle(operation: MilOperation) -> Kernel:
    """The inverse of ``pixel_shuffle``: pixel (i, j) of a block of channel ``c`` goes to channel ``(c * b + i) * b + j``."""
    (block,) = operation.integers("downscale_factor", ())
    return operation.bind(("x",), lambda x: _channels(_pixels(x, block).transpose(0, 1, 3, 5, 2, 4)))


def _pixels(x: Array, block: int) -> Array:
    """(N, C, H, W) -> (N, C, H / b, b, W / b, b)."""
    batch, channels, height, width = x.shape
    return x.reshape(batch, channels, height // block, block, width // block, block)


def _channels(x: Array) -> Array:
    """(N, three that become the channels, H, W) -> (N, C, H, W)."""
    return x.reshape(x.shape[0], -1, *x.shape[4:])


_PAD_MODES: dict[str, Literal["constant", "reflect", "edge"]] = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


@implements("pad", accepts=("x", "pad", "mode", "constant_val"))
def pad(operation: MilOperation) -> Kernel:
    """``pad[2i]`` elements before and ``pad[2i+1]`` after the last dimensions: a constant, a mirror image, or the edge."""
    mode = operation.text("mode", "constant")
    if mode not in _PAD_MODES:
        raise operation.refusal(f"has mode {mode}")
    filled = {"constant_values": operation.number("constant_val", 0)} if mode == "constant" else {}

    def kernel(x: Array, pad: Array) -> Array:
        widths = [(0, 0)] * (x.ndim - len(pad) // 2) + [(int(before), int(after)) for before, after in pad.reshape(-1, 2)]
        return np.pad(x, widths, _PAD_MODES[mode], **filled)  # type: ignore[call-overload,no-any-return]

    return operation.bind(("x", "pad"), kernel)


def _span(begin: int, end: int, stride: int, open_begin: int, open_end: int, takes_one: int) -> slice | int:
    """One dimension of a slice as numpy indexes it."""
    if takes_one:
        return begin
    return slice(None if open_begin else begin, None if open_end else end, stride)
