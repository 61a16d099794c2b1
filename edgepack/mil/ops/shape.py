"""Moving elements without computing (coremltools iOS15/tensor_transformation.py, tensor_operation.py, scatter_gather.py)."""

from __future__ import annotations

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements


@implements("reshape", accepts=("x", "shape"))
@implements("squeeze", accepts=("x", "axes"))
@implements("expand_dims", accepts=("x", "axes"))
@implements("flatten2d", accepts=("x", "axis"))
def reshape(operation: MilOperation) -> Kernel:
    """The same elements in the declared shape; only sizes of 1, or a split of the sizes, differ between these four."""
    shape = operation.outputs[0].shape
    return operation.bind(("x",), lambda x: x.reshape(shape))


@implements("transpose", accepts=("x", "perm"))
def transpose(operation: MilOperation) -> Kernel:
    """Dimension ``i`` of the output is dimension ``perm[i]`` of ``x``."""
    perm = operation.integers("perm", ())
    return operation.bind(("x",), lambda x: np.ascontiguousarray(x.transpose(perm)))


@implements("concat", accepts=("values", "axis", "interleave"))
def concat(operation: MilOperation) -> Kernel:
    """The values one after the other along ``axis``."""
    if operation.flag("interleave"):
        raise operation.refusal("interleaves")
    (axis,) = operation.integers("axis", ())
    return operation.bind(("values",), lambda values: np.concatenate(values, axis=axis))


@implements("stack", accepts=("values", "axis"))
def stack(operation: MilOperation) -> Kernel:
    """The values along a new ``axis``."""
    (axis,) = operation.integers("axis", ())
    return operation.bind(("values",), lambda values: np.stack(values, axis=axis))


@implements("split", accepts=("x", "split_sizes", "num_splits", "axis"))
def split(operation: MilOperation) -> Kernel:
    """Parts along ``axis`` of the declared sizes."""
    (axis,) = operation.integers("axis", ())
    ends = np.cumsum([output.shape[axis] for output in operation.outputs])[:-1]
    return operation.bind(("x",), lambda x: np.split(x, ends, axis=axis))


@implements("slice_by_index", accepts=("x", "begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask"))
def slice_by_index(operation: MilOperation) -> Kernel:
    """``x[begin:end:stride]`` in every dimension; a mask leaves one end open or takes the single element at ``begin``."""
    begin, end = operation.integers("begin", ()), operation.integers("end", ())
    rank = len(begin)
    masks = [operation.integers(name, (0,) * rank) for name in ("begin_mask", "end_mask", "squeeze_mask")]
    strides = operation.integers("stride", (1,) * rank)
    index = tuple(_span(*entry) for entry in zip(begin, end, strides, *masks, strict=True))
    return operation.bind(("x",), lambda x: x[index])


@implements("slice_by_size", accepts=("x", "begin", "size"))
def slice_by_size(operation: MilOperation) -> Kernel:
    """``size`` elements from ``begin`` on in every dimension."""
    begin = operation.integers("begin", ())
    sizes = operation.outputs[0].shape
    index = tuple(slice(start, start + size) for start, size in zip(begin, sizes, strict=True))
    return operation.bind(("x",), lambda x: x[index])


@implements("reverse", accepts=("x", "axes"))
def reverse(operation: MilOperation) -> Kernel:
    """Elements in the opposite order along ``axes``, all by default."""
    axes = operation.integers("axes", range(len(operation.outputs[0].shape)))
    return operation.bind(("x",), lambda x: np.flip(x, axes))


@implements("tile", accepts=("x", "reps"))
def tile(operation: MilOperation) -> Kernel:
    """``x`` repeated ``reps[i]`` times along dimension ``i``."""
    reps = operation.integers("reps", ())
    return operation.bind(("x",), lambda x: np.tile(x, reps))


@implements("depth_to_space", accepts=("x", "block_size"))
def depth_to_space(operation: MilOperation) -> Kernel:
    """Channels to a block of pixels; of channel ``(i * b + j) * C' + c``, the block's place (i, j) is the outer part."""
    (block,) = operation.integers("block_size", ())
    return operation.bind(("x",), lambda x: _blocks(x.reshape(x.shape[0], block, block, -1, *x.shape[2:]).transpose(0, 3, 4, 1, 5, 2)))


@implements("pixel_shuffle", accepts=("x", "upscale_factor"))
def pixel_shuffle(operation: MilOperation) -> Kernel:
    """Channels to a block of pixels; of channel ``(c * b + i) * b + j``, the block's place (i, j) is the inner part."""
    (block,) = operation.integers("upscale_factor", ())
    return operation.bind(("x",), lambda x: _blocks(x.reshape(x.shape[0], -1, block, block, *x.shape[2:]).transpose(0, 1, 4, 2, 5, 3)))


def _blocks(x: Array) -> Array:
    """(N, C, H, b, W, b) -> (N, C, H * b, W * b)."""
    batch, channels, height, block, width, _ = x.shape
    return x.reshape(batch, channels, height * block, width * block)


@implements("pad", accepts=("x", "pad", "mode", "constant_val"))
def pad(operation: MilOperation) -> Kernel:
    """``pad[2i]`` elements before and ``pad[2i+1]`` after the last dimensions: a constant, a mirror image, or the edge."""
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    mode = operation.text("mode", "constant")
    if mode not in modes:
        raise operation.refusal(f"has mode {mode}")
    widths = np.asarray(operation.integers("pad", ())).reshape(-1, 2)
    every = [(0, 0)] * (len(operation.outputs[0].shape) - len(widths)) + [(int(before), int(after)) for before, after in widths]
    if mode != "constant":
        return operation.bind(("x",), lambda x: np.pad(x, every, modes[mode]))  # type: ignore[call-overload]
    value = operation.number("constant_val", 0)
    return operation.bind(("x",), lambda x: np.pad(x, every, constant_values=value))


@implements("gather", accepts=("x", "indices", "axis", "batch_dims", "validate_indices"))
def gather(operation: MilOperation) -> Kernel:
    """``x`` taken at ``indices`` along ``axis``; negative indices count from the end before iOS 17 and are refused after."""
    if operation.integers("batch_dims", (0,)) != (0,):
        raise operation.refusal("has batch_dims")
    (axis,) = operation.integers("axis", (0,))
    return operation.bind(("x", "indices"), lambda x, indices: np.take(x, indices.astype(np.int64), axis=axis))


def _span(begin: int, end: int, stride: int, open_begin: int, open_end: int, takes_one: int) -> slice | int:
    """One dimension of a slice as numpy indexes it."""
    if takes_one:
        return begin
    return slice(None if open_begin else begin, None if open_end else end, stride)
