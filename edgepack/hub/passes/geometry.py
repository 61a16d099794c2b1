"""Operators that cut, pad, reverse, fold or place by rules known beforehand, said with gathers, pads and sums."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import attribute, constant, dtype_name
from edgepack.hub.passes.editing import Speller, Spelling, known_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    Values = list[ir.Value | None]


def center_crop_pad(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX CenterCropPad-18: of an odd difference the smaller half is cut, or added, before."""
    x, target, shape = node.inputs[0], constant(node.inputs[1]), known_shape(node.inputs[0])
    if x is None or target is None or shape is None:
        return None
    axes = [axis % len(shape) for axis in attribute(node, "axes") or range(len(shape))]
    grown = {axis: int(size) - shape[axis] for axis, size in zip(axes, target.tolist(), strict=True)}
    cut = {axis: -more // 2 for axis, more in grown.items() if more < 0}
    if cut:
        ends = [begin + shape[axis] + grown[axis] for axis, begin in cut.items()]
        x = spell("Slice", x, spell.integers(*cut.values()), spell.integers(*ends), spell.integers(*cut))
    added = {axis: more for axis, more in grown.items() if more > 0}
    if added:
        pads = [*(more // 2 for more in added.values()), *(more - more // 2 for more in added.values())]
        x = spell("Pad", x, spell.integers(*pads), None, spell.integers(*added))
    return [x if cut or added else spell("Identity", x)]


def affine_grid(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX AffineGrid-20: the known points of the output, with a 1 for the translation, times the matrix of each image."""
    theta, size, shape = node.inputs[0], constant(node.inputs[1]), known_shape(node.inputs[0])
    aligned = bool(attribute(node, "align_corners", 0))
    if theta is None or size is None or shape is None or (aligned and 1 in size[2:]):
        return None
    spatial = [int(length) for length in size[2:]]
    axes = [np.linspace(-1, 1, length) if aligned else (2 * np.arange(length) + 1) / length - 1 for length in spatial]
    grid = np.stack([*np.meshgrid(*axes, indexing="ij")[::-1], np.ones(spatial)], axis=-1)
    points = spell.constant(grid.reshape(1, -1, len(spatial) + 1), np.float32)
    moved = spell("MatMul", points, spell("Transpose", theta, perm=[0, 2, 1]))
    return [spell("Reshape", moved, spell.integers(shape[0], *spatial, len(spatial)))]


def compress(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX Compress-11 with a known condition; without an axis, of the flat tensor."""
    x, condition, axis = node.inputs[0], constant(node.inputs[1]), attribute(node, "axis")
    if x is None or condition is None or not condition.any():
        return None
    held = spell("Reshape", x, spell.integers(-1)) if axis is None else x
    return [spell("Gather", held, spell.integers(*np.flatnonzero(condition)), axis=axis or 0)]


def reverse_sequence(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX ReverseSequence-10: of each sequence of the batch the first steps, as many as its length says, backwards."""
    x, lengths, shape = node.inputs[0], node.inputs[1], known_shape(node.inputs[0])
    if x is None or lengths is None or shape is None or 0 in shape:
        return None
    batch, time = attribute(node, "batch_axis", 1), attribute(node, "time_axis", 0)
    order = [batch, time, *(axis for axis in range(len(shape)) if axis not in (batch, time))]
    images, steps, rest = shape[batch], shape[time], [shape[axis] for axis in order[2:]]
    begins, at = np.arange(images)[:, None] * steps, np.arange(steps)[None]
    column = spell("Reshape", lengths, spell.integers(images, 1))
    step = spell.constant(at, np.int64)
    back = spell("Sub", spell("Sub", column, spell.constant(1, np.int64)), step)
    places = spell("Add", spell("Where", spell("Less", step, column), back, step), spell.constant(begins, np.int64))
    rows = spell("Reshape", spell("Transpose", x, perm=order), spell.integers(images * steps, prod(rest)))
    found = spell(
        "Reshape", spell("Gather", rows, spell("Reshape", places, spell.integers(-1)), axis=0), spell.integers(images, steps, *rest)
    )
    return [spell("Transpose", found, perm=[order.index(axis) for axis in range(len(shape))])]


def max_unpool(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX MaxUnpool-22 of windows that do not overlap: elements to the flat places they came from; a larger output has zeros after."""
    x, indices, shape = node.inputs[0], node.inputs[1], known_shape(node.inputs[0])
    target = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if x is None or indices is None or shape is None or (target is None and len(node.inputs) > 2):
        return None
    kernel = attribute(node, "kernel_shape")
    if dtype_name(x) != "float32":
        return None
    strides, pads = attribute(node, "strides") or [1] * len(kernel), attribute(node, "pads") or [0] * 2 * len(kernel)
    if any(size > stride for size, stride in zip(kernel, strides, strict=True)):
        return None
    sizes = [
        (out - 1) * stride - pads[axis] - pads[axis + len(kernel)] + size
        for axis, (out, stride, size) in enumerate(zip(shape[2:], strides, kernel, strict=True))
    ]
    whole = [*shape[:2], *sizes]
    zeros = spell.constant(np.zeros(prod(whole)), np.float32)
    column, flat = spell("Reshape", indices, spell.integers(-1, 1)), spell("Reshape", x, spell.integers(-1))
    image = spell("Reshape", spell("ScatterND", zeros, column, flat, reduction="add"), spell.integers(*whole))
    missing = [0] * len(whole) if target is None else [int(wanted) - size for wanted, size in zip(target, whole, strict=True)]
    if min(missing) < 0:
        return None
    return [spell("Pad", image, spell.integers(*[0] * len(whole), *missing)) if any(missing) else image]


def col2im(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX Col2Im-18: every element of every block is added to the pixel that it lies on; those on the padding are left out."""
    x, shape = node.inputs[0], known_shape(node.inputs[0])
    image, block = constant(node.inputs[1]), constant(node.inputs[2])
    if x is None or shape is None or image is None or block is None or dtype_name(x) != "float32":
        return None
    sizes, kernel = image.tolist(), block.tolist()
    places = block_places(sizes, kernel, attribute(node, "strides"), attribute(node, "pads"), attribute(node, "dilations"))
    channels = shape[1] // prod(kernel)
    split = spell("Reshape", x, spell.integers(shape[0], channels, prod(kernel) * shape[2]))
    rows = spell("Reshape", spell("Transpose", split, perm=[2, 0, 1]), spell.integers(-1, shape[0] * channels))
    kept = np.flatnonzero(places >= 0)
    rows = rows if len(kept) == places.size else spell("Gather", rows, spell.integers(*kept), axis=0)
    zeros = spell.constant(np.zeros((prod(sizes), shape[0] * channels)), np.float32)
    total = spell("ScatterND", zeros, spell.constant(places[kept][:, None], np.int64), rows, reduction="add")
    whole = spell("Reshape", total, spell.integers(*sizes, shape[0], channels))
    count = len(sizes)
    return [spell("Transpose", whole, perm=[count, count + 1, *range(count)])]


def block_places(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int] | None, pads: Sequence[int] | None, dilations: Sequence[int] | None
) -> np.ndarray:
    """(kernel elements * blocks,) the flat pixel under each element of each block of an image, -1 where that is padding."""
    count = len(sizes)
    steps, gaps, before = strides or [1] * count, dilations or [1] * count, pads or [0] * 2 * count
    lines = []
    for axis, size in enumerate(sizes):
        blocks = (size + before[axis] + before[axis + count] - (kernel[axis] - 1) * gaps[axis] - 1) // steps[axis] + 1
        lines.append(np.arange(kernel[axis])[:, None] * gaps[axis] + np.arange(blocks)[None] * steps[axis] - before[axis])
    flat, inside = np.zeros((), np.int64), np.ones((), bool)
    for axis, line in enumerate(lines):
        spread = line.reshape(
            *(line.shape[0] if at == axis else 1 for at in range(count)), *(line.shape[1] if at == axis else 1 for at in range(count))
        )
        flat = flat * sizes[axis] + spread
        inside = inside & (spread >= 0) & (spread < sizes[axis])
    return np.where(inside, flat, -1).reshape(-1)


SELECTIONS: dict[str, Speller] = {"Compress": compress}
HUB: dict[str, Speller] = {"CenterCropPad": center_crop_pad, "AffineGrid": affine_grid}
SPELLERS: dict[str, Speller] = {"ReverseSequence": reverse_sequence, "MaxUnpool": max_unpool, "Col2Im": col2im}
