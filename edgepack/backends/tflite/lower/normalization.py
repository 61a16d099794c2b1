"""Normalizations as the arithmetic that defines them, in float."""

from __future__ import annotations

from edgepack.backends.tflite.emit import Emitter, arithmetic
from edgepack.backends.tflite.layout import Shape
from edgepack.backends.tflite.lower.elementwise import aligned
from edgepack.backends.tflite.program import Options, View
from edgepack.backends.tflite.table import Refusal, constant_inputs, lowers
from edgepack.quantize.fold import Operation


def _one_output(operation: Operation) -> Refusal:
    return None if len(operation.outputs) == 1 else ("statistics outputs have no kernel", "read the first output only")


@lowers("LayerNormalization", honours={"axis", "epsilon", "stash_type"}, objects=(_one_output,))
def layer_normalization(operation: Operation, emit: Emitter) -> View:
    """ONNX LayerNormalization-17 over the axes from ``axis`` on: (x - mean) / sqrt(var + epsilon) * scale + bias."""
    x = emit.take(operation.inputs[0])
    axes = tuple(range(int(operation.attributes.get("axis", -1)) % len(x.shape), len(x.shape)))
    return _normalized(operation, emit, emit.plain(x) if x.layout.merged else x, axes)


@lowers("InstanceNormalization", honours={"epsilon"}, objects=(constant_inputs(1, 2),))
def instance_normalization(operation: Operation, emit: Emitter) -> View:
    """ONNX InstanceNormalization-22 over the spatial axes, scale and bias for each channel."""
    x = emit.take(operation.inputs[0])
    return _normalized(operation, emit, x, tuple(range(2, len(x.shape))), per_channel=True)


@lowers("GroupNormalization", honours={"num_groups", "epsilon", "stash_type"}, objects=(constant_inputs(1, 2),))
def group_normalization(operation: Operation, emit: Emitter) -> View:
    """ONNX GroupNormalization-21: channels split into groups, each normalized with its space; splitting channels moves nothing."""
    x = emit.take(operation.inputs[0])
    groups = int(operation.attributes["num_groups"])
    split = emit.reshaped(x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    normal = _standardized(operation, emit, split, tuple(range(2, len(split.shape))))
    return _affine(operation, emit, emit.reshaped(normal, x.shape), per_channel=True)


def _normalized(operation: Operation, emit: Emitter, x: View, axes: Shape, per_channel: bool = False) -> View:
    return _affine(operation, emit, _standardized(operation, emit, x, axes), per_channel)


def _standardized(operation: Operation, emit: Emitter, x: View, axes: Shape) -> View:
    """(x - mean) / sqrt(var + epsilon) over ``axes``."""
    centred = _combined("SUB", x, _mean(x, axes, emit), emit)
    variance = _mean(emit.unary("SQUARE", centred), axes, emit)
    spread = emit.binary("ADD", variance, emit.scalar(float(operation.attributes.get("epsilon", 1e-5)), x))
    return _combined("MUL", centred, emit.unary("RSQRT", spread), emit)


def _affine(operation: Operation, emit: Emitter, normal: View, per_channel: bool) -> View:
    """Times scale (input 1) plus bias (input 2), along the trailing axes or one for each channel."""
    for name, operand in zip(("MUL", "ADD"), operation.inputs[1:], strict=False):
        if operand is not None:
            held = emit.take(operand)
            term = emit.reshaped(held, (held.shape[0], *(1,) * (len(normal.shape) - 2))) if per_channel else held
            normal = _combined(name, normal, term, emit)
    return normal


def _mean(x: View, axes: Shape, emit: Emitter) -> View:
    layout = x.layout.of(tuple(1 if axis in axes else size for axis, size in enumerate(x.shape)))
    stored = sorted(x.layout.position(axis) for axis in axes)
    return emit.run("MEAN", [x, emit.indices("axes", stored)], emit.like(x, layout, "mean"), Options("ReducerOptions", {"keepDims": True}))


def _combined(name: str, x: View, y: View, emit: Emitter) -> View:
    """``x`` with an operand that broadcasts to it."""
    first, second = aligned([x, y], len(x.shape), emit)
    return emit.run(name, [first, second], emit.like(first, first.layout, name.lower()), arithmetic(name))


@lowers("BatchNormalization", honours={"epsilon", "momentum", "training_mode"}, objects=(constant_inputs(1, 2, 3, 4), _one_output))
def batch_normalization(operation: Operation, emit: Emitter) -> View:
    """ONNX BatchNormalization-15 at inference that no convolution could absorb: one factor and one term for each channel."""
    x = emit.take(operation.inputs[0])
    scale, bias, mean, variance = (operand.real() for operand in operation.inputs[1:5] if operand is not None)
    factor = scale / (variance + operation.attributes.get("epsilon", 1e-5)) ** 0.5
    shape = (-1, *(1,) * (len(x.shape) - 2))
    scaled = _combined("MUL", x, emit.constant("factor", factor.reshape(shape).astype("float32")), emit)
    return _combined("ADD", scaled, emit.constant("term", (bias - mean * factor).reshape(shape).astype("float32")), emit)
