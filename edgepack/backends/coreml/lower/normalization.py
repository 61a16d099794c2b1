"""BatchNormalization, LayerNormalization, GroupNormalization and InstanceNormalization."""

from __future__ import annotations

import numpy as np

from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import lowers, needs_constants, only, operand_at, required, single_output
from edgepack.quantize.fold import Operation


@lowers(
    "BatchNormalization",
    honours={"epsilon", "momentum", "training_mode"},
    objects=(needs_constants(1, 2, 3, 4), only("training_mode", 0), single_output),
)
def batch_normalization(operation: Operation, emit: Emitter) -> Var:
    """ONNX BatchNormalization-15 as one product and one sum a channel, folded in float64: variances may exceed fp16. No momentum
    in inference."""
    x, gamma, beta, mean, variance = (required(operation, position) for position in range(5))
    epsilon = float(operation.attributes.get("epsilon", 1e-5))
    factor = gamma.real().astype(np.float64) / np.sqrt(variance.real().astype(np.float64) + epsilon)
    shift = beta.real() - mean.real() * factor
    shape = (-1, *[1] * (x.rank - 2))
    scaled = emit("mul", x=emit.value(x), y=emit.reals(factor.reshape(shape), gamma.name))
    return emit("add", x=scaled, y=emit.reals(shift.reshape(shape), beta.name))


def _shape(operation: Operation) -> tuple[str, str] | None:
    x, scale = required(operation, 0), required(operation, 1)
    axis = operation.attributes.get("axis", -1) % x.rank
    bias = operand_at(operation, 2)
    shapes = [held.shape for held in (scale, bias) if held is not None]
    if all(shape == x.shape[axis:] for shape in shapes):
        return None
    return f"scale or bias is not of shape {x.shape[axis:]}", "give it the shape of the normalized axes"


@lowers(
    "LayerNormalization",
    honours={"axis", "epsilon", "stash_type"},
    objects=(needs_constants(1, 2), single_output, only("stash_type", 1), _shape),
)
def layer_normalization(operation: Operation, emit: Emitter) -> Var:
    """ONNX LayerNormalization-17 over the axes from ``axis`` on."""
    x, scale, bias = required(operation, 0), required(operation, 1), operand_at(operation, 2)
    axis = operation.attributes.get("axis", -1) % x.rank
    optional = {} if bias is None else {"beta": emit.value(bias)}
    return emit(
        "layer_norm",
        x=emit.value(x),
        axes=list(range(axis, x.rank)),
        gamma=emit.value(scale),
        epsilon=_epsilon(float(operation.attributes.get("epsilon", 1e-5)), emit),
        **optional,
    )


@lowers("GroupNormalization", honours={"epsilon", "num_groups", "stash_type"}, objects=(needs_constants(1, 2), only("stash_type", 1)))
def group_normalization(operation: Operation, emit: Emitter) -> Var:
    """ONNX GroupNormalization-21: each group of channels to mean 0 and variance 1, then one product and one sum a channel."""
    x, scale, bias = (required(operation, position) for position in range(3))
    grouped = emit("reshape", x=emit.value(x), shape=[x.shape[0], operation.attributes["num_groups"], -1])
    epsilon = _epsilon(float(operation.attributes.get("epsilon", 1e-5)), emit)
    normal = emit("reshape", x=emit("layer_norm", x=grouped, axes=[2], epsilon=epsilon), shape=list(x.shape))
    shape = (-1, *[1] * (x.rank - 2))
    scaled = emit("mul", x=normal, y=emit.reals(scale.real().reshape(shape), scale.name))
    return emit("add", x=scaled, y=emit.reals(bias.real().reshape(shape), bias.name))


def _instance_rank(operation: Operation) -> tuple[str, str] | None:
    rank = required(operation, 0).rank
    return None if rank in (3, 4) else (f"normalizes rank {rank}", "use an input of rank 3 or 4")


@lowers("InstanceNormalization", honours={"epsilon"}, objects=(needs_constants(1, 2), _instance_rank))
def instance_normalization(operation: Operation, emit: Emitter) -> Var:
    """ONNX InstanceNormalization-6."""
    x, scale, bias = (emit.value(required(operation, position)) for position in range(3))
    epsilon = _epsilon(float(operation.attributes.get("epsilon", 1e-5)), emit)
    return emit("instance_norm", x=x, gamma=scale, beta=bias, epsilon=epsilon)


def _epsilon(epsilon: float, emit: Emitter) -> np.floating:
    """In the compute precision; one too small for fp16 becomes its smallest number (6e-8), for 0 would divide by zero."""
    rounded: np.floating = emit.number(epsilon)
    return rounded if rounded > 0 or epsilon == 0 else np.finfo(emit.dtype).smallest_subnormal
