"""Normalizations (coremltools iOS15/normalization.py); statistics are taken in float64."""

from __future__ import annotations

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements


@implements("batch_norm", accepts=("x", "mean", "variance", "gamma", "beta", "epsilon"))
def batch_norm(operation: MilOperation) -> Kernel:
    """``gamma * (x - mean) / sqrt(variance + epsilon) + beta`` for each channel (dimension 1)."""
    shape = (-1, *[1] * (operation.outputs[0].rank - 2))
    mean, variance = operation.array("mean"), operation.array("variance").astype(np.float64)
    gamma = _given(operation, "gamma", np.ones_like(mean))
    factor = gamma / np.sqrt(variance + operation.number("epsilon", 1e-5))
    shift = _given(operation, "beta", np.zeros_like(mean)) - mean * factor
    return operation.bind(("x",), lambda x: x * factor.reshape(shape) + shift.reshape(shape))


@implements("instance_norm", accepts=("x", "gamma", "beta", "epsilon"))
def instance_norm(operation: MilOperation) -> Kernel:
    """Each channel of each sample to mean 0 and variance 1, then gamma and beta for each channel."""
    rank = operation.outputs[0].rank
    epsilon = float(operation.number("epsilon", 1e-5))
    channels = (-1, *[1] * (rank - 2))
    gamma = _given(operation, "gamma", np.ones(())).reshape(channels)
    beta = _given(operation, "beta", np.zeros(())).reshape(channels)
    return operation.bind(("x",), lambda x: _standardized(x, tuple(range(2, rank)), epsilon) * gamma + beta)


@implements("layer_norm", accepts=("x", "axes", "gamma", "beta", "epsilon"))
def layer_norm(operation: MilOperation) -> Kernel:
    """``gamma * (x - mean) / sqrt(variance + epsilon) + beta`` over ``axes``; gamma and beta have the shape of those axes."""
    rank = operation.outputs[0].rank
    axes = tuple(sorted(axis % rank for axis in operation.integers("axes", range(rank))))
    epsilon = float(operation.number("epsilon", 1e-5))
    gamma, beta = _given(operation, "gamma", np.ones(())), _given(operation, "beta", np.zeros(()))

    def kernel(x: Array) -> Array:
        shape = tuple(size if axis in axes else 1 for axis, size in enumerate(x.shape))
        scale, shift = (held.reshape(shape) if held.ndim else held for held in (gamma, beta))
        return np.asarray(_standardized(x, axes, epsilon) * scale + shift)

    return operation.bind(("x",), kernel)


@implements("l2_norm", accepts=("x", "epsilon"))
def l2_norm(operation: MilOperation) -> Kernel:
    """``x / sqrt(sum(x^2) + epsilon)`` over the last three dimensions; epsilon defaults to 1e-6."""
    epsilon = float(operation.number("epsilon", 1e-6))
    return operation.bind(("x",), lambda x: x / np.sqrt(np.square(x, dtype=np.float64).sum((-3, -2, -1), keepdims=True) + epsilon))


@implements("local_response_norm", accepts=("x", "size", "alpha", "beta", "k"))
def local_response_norm(operation: MilOperation) -> Kernel:
    """``x / (k + alpha / size * sum(x^2))^beta`` over ``size`` neighbouring channels (dimension 1), of an even size one more before.

    Of rank 3 Apple's tests contradict each other: dimension 1, or the third from the end as Core ML counted channels before. Refused.
    """
    if operation.outputs[0].rank == 3:
        raise operation.refusal("has rank 3, where Apple's own values do not agree which dimension the channels are")
    (size,) = operation.integers("size", ())
    alpha, beta, k = (float(operation.number(name, default)) for name, default in (("alpha", 1e-4), ("beta", 0.75), ("k", 1)))

    def kernel(x: Array) -> Array:
        padding = [(0, 0), (size // 2, (size - 1) // 2), *[(0, 0)] * (x.ndim - 2)]
        squares = np.pad(np.square(x, dtype=np.float64), padding)
        sums = np.lib.stride_tricks.sliding_window_view(squares, size, axis=1).sum(axis=-1)
        return np.asarray(x / (k + alpha / size * sums) ** beta)

    return operation.bind(("x",), kernel)


def _standardized(x: Array, axes: tuple[int, ...], epsilon: float) -> Array:
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=axes, keepdims=True)
    variance = np.square(centred).mean(axis=axes, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + epsilon))


def _given(operation: MilOperation, parameter: str, default: Array) -> Array:
    return (operation.array(parameter) if operation.has(parameter) else default).astype(np.float64)
