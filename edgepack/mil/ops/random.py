"""random_* (coremltools iOS15/random.py): only what they give with certainty.

Core ML documents no generator, so a number that is really drawn cannot be told: refused, never made up.
"""

from __future__ import annotations

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements


@implements("random_bernoulli", accepts=("shape", "prob", "seed"))
def random_bernoulli(operation: MilOperation) -> Kernel:
    """1 with probability ``prob`` (default 0.5): certain for 0 and 1."""
    probability = operation.number("prob", 0.5)
    return _constant(operation, probability, is_certain=probability in (0, 1))


@implements("random_normal", accepts=("shape", "mean", "stddev", "seed"))
def random_normal(operation: MilOperation) -> Kernel:
    """Around ``mean`` (default 0) with the deviation ``stddev`` (default 1): certain without deviation."""
    return _constant(operation, operation.number("mean", 0), is_certain=operation.number("stddev", 1) == 0)


@implements("random_uniform", accepts=("shape", "low", "high", "seed"))
def random_uniform(operation: MilOperation) -> Kernel:
    """From ``low`` (default 0) to below ``high`` (default 1): ``low`` when both are the same."""
    low = operation.number("low", 0)
    return _constant(operation, low, is_certain=operation.number("high", 1) == low)


@implements("random_categorical", accepts=("x", "mode", "size", "seed"))
def random_categorical(operation: MilOperation) -> Kernel:
    """``size`` places along the last dimension, likely as it says: certain when there is one place only."""
    (size,) = operation.integers("size", (1,))

    def kernel(x: Array) -> Array:
        if x.shape[-1] != 1:
            raise _drawn(operation)
        return np.zeros((*x.shape[:-1], size), np.float32)

    return operation.bind(("x",), kernel)


def _constant(operation: MilOperation, value: np.float32, is_certain: bool) -> Kernel:
    if not is_certain:
        raise _drawn(operation)
    return operation.bind(("shape",), lambda shape: np.full(shape, value))


def _drawn(operation: MilOperation) -> Exception:
    return operation.refusal("draws random numbers, which no other runtime draws alike")
