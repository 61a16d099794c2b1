"""Tables: constant matrices of which a Gather takes rows (embeddings), in int8 codes with a scale for each row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import attribute, constant
from edgepack.quantize.constraints import Demands, erased, weight_encoding
from edgepack.quantize.insert import read_from_codes

if TYPE_CHECKING:
    import onnx_ir as ir

# Rows in codes take three more operators, about 1 kB of a file and 1 us: a table of 4096 numbers saves 12 kB, a smaller one stays real.
_SMALLEST = 4096


def is_table(node: ir.Node) -> bool:
    """Whether a Gather takes rows of a constant matrix that is large enough to be held in codes."""
    if node.op_type != "Gather" or attribute(node, "axis", 0) not in (0, -2) or constant(node.inputs[1]) is not None:
        return False
    table = constant(node.inputs[0])
    return table is not None and table.dtype == np.float32 and table.ndim == 2 and table.size >= _SMALLEST


def own_tables(graph: ir.Graph) -> list[ir.Node]:
    """The Gathers whose table nobody but such Gathers reads."""
    tables = [node for node in graph if is_table(node)]
    taken = {id(node) for node in tables}
    return [node for node in tables if node.inputs[0] is not None and all(id(use.node) in taken for use in node.inputs[0].uses())]


def encode_tables(graph: ir.Graph, demands: Demands) -> int:
    """Let Gathers read their own tables from codes; how many do."""
    encoded = 0
    for node in own_tables(graph):
        value, table = node.inputs[0], constant(node.inputs[0])
        assert value is not None and table is not None
        encoding = weight_encoding(table, 0, None, 1.0, demands)
        if np.isfinite(table).all() and not erased(table, encoding, demands):
            read_from_codes(graph, node, 0, f"{value.name}/axis0", table, encoding)
            encoded += 1
    return encoded
