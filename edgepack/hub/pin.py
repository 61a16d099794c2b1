"""Pinning: symbolic dimensions replaced by sizes, for formats that need every size known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgepack.hub import passes

if TYPE_CHECKING:
    import onnx_ir as ir


def symbols(model: ir.Model) -> list[str]:
    """Names of the symbolic dimensions of the inputs, sorted."""
    found = {str(size.value) for value in model.graph.inputs for size in value.shape or () if not isinstance(size, int)}
    return sorted(found)


def pinned(model: ir.Model, sizes: Mapping[str, tuple[int, ...]]) -> ir.Model:
    """A copy of the model in which every input has the given shape (input name -> sizes), with all shapes inferred anew."""
    import onnx_ir as ir

    fixed = model.clone()
    for value in fixed.graph.inputs:
        value.shape = ir.Shape(sizes[value.name or ""])
    for node in fixed.graph:
        for output in node.outputs:
            output.shape = None
    for rewrite in passes.after_pinning():
        rewrite(fixed)
    return fixed
