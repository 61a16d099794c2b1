"""Elements rearranged or replaced, without arithmetic (coremltools iOS15 to iOS18 tensor_transformation.py, tensor_operation.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements
from edgepack.mil.ops.shape import slices


@implements("reshape_like", accepts=("x", "ref_tensors", "begins", "ends", "end_masks"), selects=True)
def reshape_like(operation: MilOperation) -> Kernel:
    """The same elements in the shape that is joined from ``ref_tensors[i].shape[begins[i]:ends[i]]``, to the end where the mask is set."""
    begins, ends, masks = (operation.integers(name, ()) for name in ("begins", "ends", "end_masks"))
    spans = [slice(begin, None if open_end else end) for begin, end, open_end in zip(begins, ends, masks, strict=True)]

    def kernel(x: Array, references: Sequence[Array]) -> Array:
        return x.reshape([size for held, span in zip(references, spans, strict=True) for size in held.shape[span]])

    return operation.bind(("x", "ref_tensors"), kernel)


@implements("slice_update", accepts=("x", "update", "begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask"), selects=True)
def slice_update(operation: MilOperation) -> Kernel:
    """``x`` with ``x[begin:end:stride]`` replaced by ``update``; the masks are those of ``slice_by_index``."""
    taken = slices(operation)

    def kernel(x: Array, update: Array, begin: Array, end: Array, stride: Array | None) -> Array:
        found = x.copy()
        found[taken(x.ndim, begin, end, stride)] = update
        return found

    return operation.bind(("x", "update", "begin", "end", "stride"), kernel, stride=None)


@implements("reverse_sequence", accepts=("x", "lengths", "seq_axis", "batch_axis"), selects=True)
def reverse_sequence(operation: MilOperation) -> Kernel:
    """The first ``lengths[i]`` elements along ``seq_axis`` in the opposite order, for every place i along ``batch_axis``."""
    (sequence,), (batch,) = operation.integers("seq_axis", (0,)), operation.integers("batch_axis", (0,))

    def kernel(x: Array, lengths: Array) -> Array:
        steps = np.arange(x.shape[sequence])
        places = np.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
        shape = [size if axis in (sequence % x.ndim, batch % x.ndim) else 1 for axis, size in enumerate(x.shape)]
        aligned = places if batch % x.ndim < sequence % x.ndim else places.T
        return np.take_along_axis(x, aligned.reshape(shape), axis=sequence)

    return operation.bind(("x", "lengths"), kernel)


@implements("sliding_windows", accepts=("x", "axis", "size", "stride"), selects=True)
def sliding_windows(operation: MilOperation) -> Kernel:
    """All windows of ``size`` elements along ``axis``, ``stride`` apart: their elements are a new dimension after it."""
    (axis,), (size,), (stride,) = (operation.integers(name, default) for name, default in (("axis", ()), ("size", ()), ("stride", (1,))))

    def kernel(x: Array) -> Array:
        starts = np.arange(0, x.shape[axis] - size + 1, stride)
        return x.take(starts[:, None] + np.arange(size), axis=axis)

    return operation.bind(("x",), kernel)


@implements("space_to_batch", accepts=("x", "block_shape", "paddings"), selects=True)
def space_to_batch(operation: MilOperation) -> Kernel:
    """(N, C, H, W) padded with zeros -> (b0 * b1 * N, C, H / b0, W / b1): the place in a block is the outer part of the batch."""
    rows, columns = operation.integers("block_shape", ())
    padding = operation.array("paddings").reshape(2, 2)

    def kernel(x: Array) -> Array:
        whole = np.pad(x, [(0, 0), (0, 0), *padding.tolist()])
        batch, channels, height, width = whole.shape
        parts = whole.reshape(batch, channels, height // rows, rows, width // columns, columns).transpose(3, 5, 0, 1, 2, 4)
        return parts.reshape(-1, channels, height // rows, width // columns)

    return operation.bind(("x",), kernel)


@implements("batch_to_space", accepts=("x", "block_shape", "crops"), selects=True)
def batch_to_space(operation: MilOperation) -> Kernel:
    """The inverse of ``space_to_batch``: (b0 * b1 * N, C, H, W) -> (N, C, H * b0, W * b1), and ``crops`` cut off."""
    rows, columns = operation.integers("block_shape", ())
    (top, bottom), (left, right) = operation.array("crops").reshape(2, 2).tolist()

    def kernel(x: Array) -> Array:
        _, channels, height, width = x.shape
        parts = x.reshape(rows, columns, -1, channels, height, width).transpose(2, 3, 4, 0, 5, 1)
        whole = parts.reshape(-1, channels, height * rows, width * columns)
        return whole[..., top : height * rows - bottom, left : width * columns - right]

    return operation.bind(("x",), kernel)


@implements("fill_like", accepts=("ref_tensor", "value"))
def fill_like(operation: MilOperation) -> Kernel:
    """``value`` (default 0) in the shape of ``ref_tensor``."""
    value = operation.array("value") if operation.has("value") else np.float32(0)
    return operation.bind(("ref_tensor",), lambda held: np.full(held.shape, value))


@implements("non_zero", accepts=("x",))
def non_zero(operation: MilOperation) -> Kernel:
    """The places of the elements that are not 0, one a row."""
    return operation.bind(("x",), np.argwhere)


@implements("fill", accepts=("shape", "value"))
def fill(operation: MilOperation) -> Kernel:
    """``value`` (default 0) in the given shape."""
    value = operation.array("value") if operation.has("value") else np.float32(0)
    return operation.bind(("shape",), lambda shape: np.full(shape, value))


@implements("band_part", accepts=("x", "lower", "upper"), selects=True)
def band_part(operation: MilOperation) -> Kernel:
    """Zeros but for ``lower`` diagonals below the main one of the last two dimensions and ``upper`` above; all of a side if negative."""
    (lower,), (upper,) = operation.integers("lower", (-1,)), operation.integers("upper", (-1,))

    def kernel(x: Array) -> Array:
        below = np.arange(x.shape[-2])[:, None] - np.arange(x.shape[-1])
        kept = ((lower < 0) | (below <= lower)) & ((upper < 0) | (-below <= upper))
        return np.where(kept, x, np.zeros((), x.dtype))

    return operation.bind(("x",), kernel)


@implements("one_hot", accepts=("indices", "one_hot_vector_size", "axis", "on_value", "off_value"))
def one_hot(operation: MilOperation) -> Kernel:
    """``on_value`` (default 1) at the index along the new ``axis`` (default the last), ``off_value`` (default 0) elsewhere."""
    (axis,) = operation.integers("axis", (-1,))
    on = operation.array("on_value") if operation.has("on_value") else np.asarray(1)
    off = operation.array("off_value") if operation.has("off_value") else np.asarray(0)

    def kernel(indices: Array, size: Array) -> Array:
        if indices.size and not 0 <= indices.min() <= indices.max() < size:
            raise operation.refusal(f"takes an index outside [0, {int(size) - 1}], which Core ML documents nothing for")
        is_there = np.expand_dims(indices, axis) == np.expand_dims(np.arange(int(size)), _others(axis, indices.ndim + 1))
        return np.where(is_there, on, off)

    return operation.bind(("indices", "one_hot_vector_size"), kernel)


def _others(axis: int, rank: int) -> tuple[int, ...]:
    """All axes of a tensor but one."""
    return tuple(held for held in range(rank) if held != axis % rank)


@implements("range_1d", accepts=("start", "end", "step"))
def range_1d(operation: MilOperation) -> Kernel:
    """``start``, ``start + step``, ... as far as they lie before ``end``."""

    def kernel(start: Array, end: Array, step: Array) -> Array:
        count = max(math.ceil((float(end) - float(start)) / float(step)), 0)
        return np.asarray(float(start) + np.arange(count) * float(step))

    return operation.bind(("start", "end", "step"), kernel)
