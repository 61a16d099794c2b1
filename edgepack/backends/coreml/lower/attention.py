"""Attention as one operation (edgepack.backends.coreml.attention)."""

from __future__ import annotations

from edgepack.backends.coreml.attention import ATTENTION
from edgepack.backends.coreml.emitter import Emitter, Var
from edgepack.backends.coreml.table import lowers, required
from edgepack.quantize.fold import Operation

_MASK = 3


@lowers(ATTENTION)
def attention(operation: Operation, emit: Emitter) -> Var:
    """MIL's takes keys and values of as many heads as the query; fewer are repeated. The mask may be smaller than the scores."""
    query = required(operation, 0)
    key, value = (emit.spread(emit.value(held), (*query.shape[:-2], *held.shape[-2:])) for held in operation.inputs[1:_MASK] if held)
    mask = {"attn_mask": emit.value(required(operation, _MASK))} if len(operation.inputs) > _MASK else {}
    return emit("scaled_dot_product_attention", query=emit.value(query), key=key, value=value, **mask)
