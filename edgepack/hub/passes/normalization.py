"""Normalizations that ask for more than a kernel gives: statistics as outputs, or parameters computed at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import attribute, constant, dtype_name
from edgepack.hub.passes.editing import Speller, Spelling, is_read, known_shape

if TYPE_CHECKING:
    import onnx_ir as ir

    Values = list[ir.Value | None]


def layer_normalization(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX LayerNormalization-17, Mean and InvStdDev included. One output and constant parameters stay as they are.

    The statistics are of type ``stash_type``, float32 unless it says otherwise.
    """
    import onnx_ir as ir

    x, scale, *bias = node.inputs
    if not any(map(is_read, node.outputs[1:])) and _are_constant(scale, *bias):
        return None
    if x is None or x.shape is None or x.dtype != ir.DataType.FLOAT or attribute(node, "stash_type", 1) != ir.DataType.FLOAT:
        return None
    rank = len(x.shape)
    axes = tuple(range(attribute(node, "axis", -1) % rank, rank))
    mean, centred, variance = _statistics(x, axes, spell)
    inverse = spell("Div", spell.constant(1, np.float32), _deviation(variance, node, spell))
    scaled = spell("Mul", spell("Mul", centred, inverse), scale)
    result = spell("Add", scaled, bias[0]) if bias and bias[0] is not None else scaled
    statistics = [mean, inverse][: len(node.outputs) - 1]
    return [result, *(new if is_read(old) else None for old, new in zip(node.outputs[1:], statistics, strict=True))]


def _statistics(x: ir.Value, axes: tuple[int, ...], spell: Spelling) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Mean, x - mean, and the variance of the whole population, with the axes kept."""
    mean = spell("ReduceMean", x, spell.integers(*axes), keepdims=1)
    centred = spell("Sub", x, mean)
    return mean, centred, spell("ReduceMean", spell("Mul", centred, centred), spell.integers(*axes), keepdims=1)


def _deviation(variance: ir.Value, node: ir.Node, spell: Spelling) -> ir.Value:
    """sqrt(variance + epsilon)."""
    source = node.inputs[0]
    assert source is not None
    return spell("Sqrt", spell("Add", variance, spell.constant(attribute(node, "epsilon", 1e-5), dtype_name(source))))


def batch_normalization(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX BatchNormalization-15 in training form, or with parameters computed at run time."""
    x, scale, bias, *running = node.inputs
    training = attribute(node, "training_mode", 0)
    if x is None or x.shape is None or len(x.shape) < 2 or (not training and _are_constant(scale, bias, *running)):
        return None
    if training:
        return _trained(node, spell)
    rank = len(x.shape)
    mean, variance = (_by_channel(value, rank, spell) for value in running)
    return [_affine(spell("Sub", x, mean), _deviation(variance, node, spell), scale, bias, rank, spell)]


def _trained(node: ir.Node, spell: Spelling) -> Values:
    """By the statistics of the batch; running_x = input_x * momentum + x * (1 - momentum)."""
    x, scale, bias, *running = node.inputs
    assert x is not None and x.shape is not None
    rank, momentum = len(x.shape), attribute(node, "momentum", 0.9)
    mean, centred, variance = _statistics(x, (0, *range(2, rank)), spell)
    result = _affine(centred, _deviation(variance, node, spell), scale, bias, rank, spell)
    flat = [spell("Reshape", value, spell.integers(-1)) for value in (mean, variance)]
    mixed = [_mixed(old, new, momentum, spell) for old, new in zip(running, flat, strict=True) if old is not None]
    return [result, *(new if is_read(old) else None for old, new in zip(node.outputs[1:], mixed, strict=False))]


def _mixed(old: ir.Value, new: ir.Value, momentum: float, spell: Spelling) -> ir.Value:
    parts = [
        spell("Mul", value, spell.constant(part, dtype_name(old))) for value, part in ((old, momentum), (new, 1 - np.float64(momentum)))
    ]
    return spell("Add", *parts)


def instance_normalization(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX InstanceNormalization-6 with a scale or bias computed at run time."""
    x, scale, bias = node.inputs
    if x is None or x.shape is None or _are_constant(scale, bias):
        return None
    rank = len(x.shape)
    _, centred, variance = _statistics(x, tuple(range(2, rank)), spell)
    return [_affine(centred, _deviation(variance, node, spell), scale, bias, rank, spell)]


def _affine(centred: ir.Value, deviation: ir.Value, scale: ir.Value | None, bias: ir.Value | None, rank: int, spell: Spelling) -> ir.Value:
    """centred * (scale / deviation) + bias, with scale and bias of one number a channel."""
    factor = spell("Div", _by_channel(scale, rank, spell), deviation)
    return spell("Add", spell("Mul", centred, factor), _by_channel(bias, rank, spell))


def _by_channel(value: ir.Value | None, rank: int, spell: Spelling) -> ir.Value:
    """(C,) as (1, C, 1, ...), for broadcasting."""
    return spell("Reshape", value, spell.integers(1, -1, *[1] * (rank - 2)))


def group_normalization(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX GroupNormalization-21 with a scale or bias computed at run time."""
    x, scale, bias = node.inputs
    shape = known_shape(x)
    if x is None or shape is None or _are_constant(scale, bias) or attribute(node, "stash_type", 1) != 1:
        return None
    groups = attribute(node, "num_groups")
    split = spell("Reshape", x, spell.integers(shape[0], groups, -1))
    _, centred, variance = _statistics(split, (2,), spell)
    deviation = spell("Sqrt", spell("Add", variance, spell.constant(attribute(node, "epsilon", 1e-5), dtype_name(x))))
    normal = spell("Reshape", spell("Div", centred, deviation), spell.integers(*shape))
    scaled = spell("Mul", normal, _by_channel(scale, len(shape), spell))
    return [spell("Add", scaled, _by_channel(bias, len(shape), spell))]


def lp_normalization(node: ir.Node, spell: Spelling) -> Values | None:
    """ONNX LpNormalization-22 of p 1 or 2; what has no length stays 0."""
    x = node.inputs[0]
    if x is None or x.shape is None:
        return None
    axis, order = attribute(node, "axis", -1), attribute(node, "p", 2)
    zero, one = (spell.constant(number, dtype_name(x)) for number in (0, 1))
    parts = spell("Abs", x) if order == 1 else spell("Mul", x, x)
    total = spell("ReduceSum", parts, spell.integers(axis), keepdims=1)
    length = total if order == 1 else spell("Sqrt", total)
    return [spell("Div", x, spell("Where", spell("Equal", length, zero), one, length))]


# What the standard deviation is raised by in the function body of MeanVarianceNormalization-13.
_DEVIATION_FLOOR = 1e-9


def mean_variance_normalization(node: ir.Node, spell: Spelling) -> Values:
    """ONNX MeanVarianceNormalization-13, (x - mean) / (deviation + 1e-9), the deviation from centred numbers: nothing cancels."""
    x = node.inputs[0]
    assert x is not None
    _, centred, variance = _statistics(x, tuple(attribute(node, "axes", [0, 2, 3])), spell)
    return [spell("Div", centred, spell("Add", spell("Sqrt", variance), spell.constant(_DEVIATION_FLOOR, dtype_name(x))))]


def _are_constant(*values: ir.Value | None) -> bool:
    return all(value is None or constant(value) is not None for value in values)


SPELLERS: dict[str, Speller] = {
    "LayerNormalization": layer_normalization,
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": instance_normalization,
    "GroupNormalization": group_normalization,
    "LpNormalization": lp_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
}
