"""How many bytes the constants of a hub take in a scheme, before anything is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import constant
from edgepack.quantize.constraints import Demands, channel_axis, constants_of
from edgepack.quantize.placement import LINEAR, carries_codes, integer_nodes
from edgepack.quantize.scheme import Scheme
from edgepack.quantize.tables import own_tables
from edgepack.quantize.weights import quantize_weights

if TYPE_CHECKING:
    import onnx_ir as ir


def stored_bytes(model: ir.Model, scheme: Scheme) -> int:
    """Bytes of all constants under ``scheme``: codes with their scales where it holds codes, each tied weight once.

    A file adds its graph to them. What placement leaves real for the sake of ranges (w8a8) is counted as codes: ranges are not known yet.

    Raises:
        QuantizeError: the scheme cannot hold this student.
    """
    if scheme.weight_bits != 8 or (scheme.is_static and carries_codes(model.graph)):
        return _bytes(model, {"float32": 2} if scheme.activations == "float16" else {})
    if scheme.is_static:
        return _static_bytes(model)
    return _bytes(quantize_weights(model, Demands())[0], {})


def _bytes(model: ir.Model, widths: dict[str, int]) -> int:
    """Elements times the width of their type, or what ``widths`` says instead."""
    arrays = [held for held in map(constant, model.graph.initializers.values()) if held is not None]
    return sum(held.size * widths.get(str(held.dtype), held.dtype.itemsize) for held in arrays)


def _static_bytes(model: ir.Model) -> int:
    """int8 weights and tables and their float32 scales; int32 biases are as wide as real ones."""
    saved: dict[str, int] = {}
    for node in integer_nodes(model.graph):
        weight = constants_of(node)["weight"] if node.op_type in LINEAR else None
        if weight is not None:
            saved[_name(node, LINEAR[node.op_type])] = _saved(weight.size, weight.shape[channel_axis(node)])
    for node in own_tables(model.graph):
        table = constant(node.inputs[0])
        assert table is not None
        saved[_name(node, 0)] = _saved(table.size, table.shape[0])
    return _bytes(model, {}) - sum(saved.values())


def _name(node: ir.Node, index: int) -> str:
    value = node.inputs[index]
    assert value is not None
    return value.name or ""


def _saved(elements: int, channels: int) -> int:
    return elements * (np.dtype(np.float32).itemsize - np.dtype(np.int8).itemsize) - channels * np.dtype(np.float32).itemsize
