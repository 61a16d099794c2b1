"""Convolutions in forms that kernels lack: weights computed at run time, and volumes where there are kernels of images alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import attribute, constant, dtype_name
from edgepack.hub.passes.editing import Speller, Spelling, known_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    Values = list[ir.Value | None]
    Sizes = Sequence[int]


@dataclass(frozen=True)
class _Form:
    """A convolution with explicit pads and known shapes, an entry a spatial axis."""

    x: ir.Value
    weights: ir.Value
    bias: ir.Value | None
    shape: Sizes
    kernel_shape: Sizes
    out: Sizes
    strides: Sizes
    dilations: Sizes
    before: Sizes
    group: int

    @classmethod
    def of(cls, node: ir.Node) -> _Form | None:
        """None for what is not known, or not explicit."""
        x, weights = node.inputs[:2]
        shape, kernel, result = known_shape(x), known_shape(weights), known_shape(node.outputs[0])
        if x is None or weights is None or shape is None or kernel is None or result is None or dtype_name(x) != "float32":
            return None
        # Weights kept as codes are a backend's to read.
        if (maker := weights.producer()) is not None and maker.op_type == "DequantizeLinear":
            return None
        if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID") or attribute(node, "output_shape"):
            return None
        count = len(shape) - 2
        ones, pads = [1] * count, attribute(node, "pads") or [0] * 2 * count
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        strides, dilations = attribute(node, "strides") or ones, attribute(node, "dilations") or ones
        return cls(x, weights, bias, shape, kernel, result[2:], strides, dilations, pads[:count], attribute(node, "group", 1))

    @property
    def kernel(self) -> Sizes:
        return self.kernel_shape[2:]

    @property
    def spatial(self) -> Sizes:
        return self.shape[2:]


def _framed(x: ir.Value, sizes: Sizes, first: int, begins: Sizes, wanted: Sizes, spell: Spelling) -> ir.Value:
    """Of axes from ``first`` on, of ``sizes``, the ``wanted`` elements from ``begins`` on; zeros where those lie outside."""
    axes = range(first, first + len(sizes))
    low = [max(begin, 0) for begin in begins]
    high = [min(begin + count, size) for begin, count, size in zip(begins, wanted, sizes, strict=True)]
    if any(low) or list(high) != list(sizes):
        x = spell("Slice", x, spell.integers(*low), spell.integers(*high), spell.integers(*axes))
    pads = [held - begin for held, begin in zip(low, begins, strict=True)]
    pads += [begin + count - end for begin, count, end in zip(begins, wanted, high, strict=True)]
    return spell("Pad", x, spell.integers(*pads), None, spell.integers(*axes)) if any(pads) else x


def conv_of_computed_weights(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX Conv-11 as a product: what each element of the kernel sees of the image, times the weights."""
    form = _Form.of(node)
    if form is None or constant(form.weights) is not None:
        return None
    channels = form.shape[1] // form.group * prod(form.kernel)
    matrix = spell("Reshape", form.weights, spell.integers(1, form.group, form.kernel_shape[0] // form.group, channels))
    return [_biased(_product(form, form.x, form.spatial, form.before, form.strides, matrix, form.kernel_shape[0], spell), form, spell)]


def _product(
    form: _Form, x: ir.Value, spatial: Sizes, before: Sizes, strides: Sizes, matrix: ir.Value, channels: int, spell: Spelling
) -> ir.Value:
    """Windows of (N, C, *spatial), ``before`` of them padding, times (1, group, outputs of a group, inputs of a group * kernel)."""
    reach = [
        (out - 1) * stride + (size - 1) * dilation + 1
        for out, stride, size, dilation in zip(form.out, strides, form.kernel, form.dilations, strict=True)
    ]
    held = _framed(x, spatial, 2, [-size for size in before], reach, spell)
    axes, area = range(2, 2 + len(spatial)), prod(form.out)
    seen = []
    for tap in product(*map(range, form.kernel)):
        starts = [place * dilation for place, dilation in zip(tap, form.dilations, strict=True)]
        ends = [start + (out - 1) * stride + 1 for start, out, stride in zip(starts, form.out, strides, strict=True)]
        cut = spell("Slice", held, spell.integers(*starts), spell.integers(*ends), spell.integers(*axes), spell.integers(*strides))
        seen.append(spell("Reshape", cut, spell.integers(form.shape[0], form.shape[1], 1, area)))
    columns = spell("Concat", *seen, axis=2) if len(seen) > 1 else seen[0]
    columns = spell("Reshape", columns, spell.integers(form.shape[0], form.group, form.shape[1] // form.group * len(seen), area))
    return spell("Reshape", spell("MatMul", matrix, columns), spell.integers(form.shape[0], channels, *form.out))


def _biased(y: ir.Value, form: _Form, spell: Spelling) -> ir.Value:
    return y if form.bias is None else spell("Add", y, spell("Reshape", form.bias, spell.integers(1, -1, *[1] * len(form.out))))


def transposed_of_computed_weights(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX ConvTranspose-11 as the convolution that defines it: zeros between the elements of the image, the kernel turned round."""
    form = _Form.of(node)
    if form is None or constant(form.weights) is not None:
        return None
    x, spatial = form.x, list(form.spatial)
    for axis, stride in enumerate(form.strides):
        x = _apart(x, [*form.shape[:2], *spatial], 2 + axis, stride, spell)
        spatial[axis] = (spatial[axis] - 1) * stride + 1
    before = [(size - 1) * gap - pad for size, gap, pad in zip(form.kernel, form.dilations, form.before, strict=True)]
    each, outputs, taps = form.shape[1] // form.group, form.kernel_shape[1], prod(form.kernel)
    flat = spell("Reshape", form.weights, spell.integers(form.group, each, outputs, taps))
    turned = spell("Gather", flat, spell.integers(*reversed(range(taps))), axis=3)
    matrix = spell("Reshape", spell("Transpose", turned, perm=[0, 2, 1, 3]), spell.integers(1, form.group, outputs, each * taps))
    ones = [1] * len(spatial)
    return [_biased(_product(form, x, spatial, before, ones, matrix, outputs * form.group, spell), form, spell)]


def _apart(x: ir.Value, shape: Sizes, axis: int, stride: int, spell: Spelling) -> ir.Value:
    """``stride`` - 1 zeros between the elements of an axis."""
    if stride == 1:
        return x
    rows, size, rest = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
    split = spell("Reshape", x, spell.integers(rows, size, 1, rest))
    wide = spell("Pad", split, spell.integers(0, 0, 0, 0, 0, 0, stride - 1, 0))
    joined = spell("Reshape", wide, spell.integers(*shape[:axis], size * stride, *shape[axis + 1 :]))
    return spell("Slice", joined, spell.integers(0), spell.integers((size - 1) * stride + 1), spell.integers(axis))


_VOLUME = 5


def conv_of_volumes(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX Conv-11 over (N, C, D, H, W): for each depth of the kernel a convolution of images, of which the sum is taken."""
    form, held = _Form.of(node), constant(node.inputs[1])
    if form is None or held is None or len(form.shape) != _VOLUME:
        return None
    depth, reach = form.out[0], (form.out[0] - 1) * form.strides[0] + (form.kernel[0] - 1) * form.dilations[0] + 1
    slices = _framed(spell("Transpose", form.x, perm=[0, 2, 1, 3, 4]), form.spatial[:1], 1, [-form.before[0]], [reach], spell)
    totals = []
    for tap in range(form.kernel[0]):
        start = tap * form.dilations[0]
        ends = (start + (depth - 1) * form.strides[0] + 1, 1, form.strides[0])
        cut = spell("Slice", slices, spell.integers(start), *(spell.integers(number) for number in ends))
        images = spell("Reshape", cut, spell.integers(form.shape[0] * depth, *form.shape[1:2], *form.shape[3:]))
        weights = spell.constant(held[:, :, tap], np.float32)
        last = [form.bias] if tap == 0 and form.bias is not None else []
        totals.append(spell("Conv", images, weights, *last, group=form.group, **_of_images(node, form)))
    return [_volume(reduce(lambda left, right: spell("Add", left, right), totals), form, form.kernel_shape[0], spell)]


def _of_images(node: ir.Node, form: _Form) -> dict[str, list[int]]:
    """Attributes of the last two axes."""
    pads = attribute(node, "pads") or [0] * 6
    return {"strides": list(form.strides[1:]), "dilations": list(form.dilations[1:]), "pads": [*pads[1:3], *pads[4:6]]}


def _volume(images: ir.Value, form: _Form, channels: int, spell: Spelling) -> ir.Value:
    """(N * depth, C, H, W) as (N, C, D, H, W)."""
    split = spell("Reshape", images, spell.integers(form.shape[0], form.out[0], channels, *form.out[1:]))
    return spell("Transpose", split, perm=[0, 2, 1, 3, 4])


def transposed_of_volumes(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX ConvTranspose-11 over (N, C, D, H, W): for each depth of the kernel one of images, moved to where that depth goes."""
    form, held = _Form.of(node), constant(node.inputs[1])
    if form is None or held is None or len(form.shape) != _VOLUME:
        return None
    channels, depth = form.kernel_shape[1] * form.group, form.spatial[0]
    last = spell("Transpose", form.x, perm=[0, 2, 1, 3, 4])
    images = spell("Reshape", last, spell.integers(form.shape[0] * depth, form.shape[1], *form.shape[3:]))
    extra = (attribute(node, "output_padding") or [0] * 3)[1:]
    totals = []
    for tap in range(form.kernel[0]):
        weights = spell.constant(held[:, :, tap], np.float32)
        spread = spell("ConvTranspose", images, weights, group=form.group, output_padding=extra, **_of_images(node, form))
        flat = spell("Reshape", spread, spell.integers(form.shape[0], depth, channels * prod(form.out[1:])))
        apart = _apart(flat, [form.shape[0], depth, channels * prod(form.out[1:])], 1, form.strides[0], spell)
        begin = form.before[0] - tap * form.dilations[0]
        reach = (depth - 1) * form.strides[0] + 1
        if -form.out[0] < begin < reach:
            totals.append(_framed(apart, [reach], 1, [begin], form.out[:1], spell))
    total = reduce(lambda left, right: spell("Add", left, right), totals)
    return [_biased(_volume(total, form, channels, spell), form, spell)]


COMPUTED: dict[str, Speller] = {"Conv": conv_of_computed_weights, "ConvTranspose": transposed_of_computed_weights}


def _conv(node: ir.Node, spell: Spelling) -> Values | None:
    return conv_of_computed_weights(node, spell) or conv_of_volumes(node, spell)


def _transposed(node: ir.Node, spell: Spelling) -> Values | None:
    return transposed_of_computed_weights(node, spell) or transposed_of_volumes(node, spell)


IMAGES_ALONE: dict[str, Speller] = {"Conv": _conv, "ConvTranspose": _transposed}
