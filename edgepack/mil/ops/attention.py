"""scaled_dot_product_attention (coremltools iOS18/transformers.py)."""

from __future__ import annotations

import math

import numpy as np

from edgepack.mil.operation import Array, Kernel, MilOperation, implements
from edgepack.mil.ops.activation import normalized_exponentials


@implements("scaled_dot_product_attention", accepts=("query", "key", "value", "attn_mask"))
def scaled_dot_product_attention(operation: MilOperation) -> Kernel:
    """``softmax(query @ key.T / sqrt(E) + mask) @ value``: (..., L, E), (..., S, E), (..., S, EV) -> (..., L, EV).

    A boolean mask leaves out the scores where it is false; a real one is added. Nothing between the products is rounded.
    """

    def kernel(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
        scores = np.matmul(query, key.swapaxes(-1, -2)) / np.float32(math.sqrt(query.shape[-1]))
        if mask is not None:
            scores = scores + (np.where(mask, np.float32(0), -np.float32(np.inf)) if mask.dtype == np.bool_ else mask)
        return np.asarray(np.matmul(normalized_exponentials(scores, -1), value))

    return operation.bind(("query", "key", "value", "attn_mask"), kernel, attn_mask=None)
