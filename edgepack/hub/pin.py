"""Pinning: symbolic dimensions replaced by sizes, for formats that need every size known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgepack.hub import passes
from edgepack.hub.graph import HubError

if TYPE_CHECKING:
    import onnx_ir as ir


def symbols(model: ir.Model) -> list[str]:
    """Names of the symbolic dimensions of the inputs, sorted."""
    found = {str(size.value) for value in model.graph.inputs for size in value.shape or () if not isinstance(size, int)}
    return sorted(found)


def pinned(model: ir.Model, sizes: Mapping[str, tuple[int, ...]]) -> ir.Model:
    """A copy of the model in which every input has the given shape (input name -> sizes), with all shapes inferred anew.

    Raises:
        HubError: a size is not the declared one, or one symbol is given two sizes.
    """
    import onnx_ir as ir

    _refuse_disagreement(model, sizes)
    fixed = model.clone()
    for value in fixed.graph.inputs:
        value.shape = ir.Shape(sizes[value.name or ""])
    for node in fixed.graph:
        for output in node.outputs:
            output.shape = None
    for rewrite in passes.after_pinning():
        rewrite(fixed)
    return fixed


def _refuse_disagreement(model: ir.Model, sizes: Mapping[str, tuple[int, ...]]) -> None:
    """One symbol is one size, wherever it stands; a declared size stays what it is."""
    seen: dict[str, tuple[int, str]] = {}
    for value in model.graph.inputs:
        name, declared = value.name or "", list(value.shape or ())
        fits = len(declared) == len(sizes[name]) and all(
            size == dimension for dimension, size in zip(declared, sizes[name], strict=True) if isinstance(dimension, int)
        )
        if not fits:
            raise HubError(f"input '{name}' is declared as {declared} and pinned to {list(sizes[name])}", "pin symbolic dimensions only")
        for dimension, size in zip(declared, sizes[name], strict=True):
            symbol = None if isinstance(dimension, int) else dimension.value
            held, where = seen.setdefault(symbol, (size, name)) if symbol else (size, name)
            if held != size:
                raise HubError(
                    f"dimension '{symbol}' is pinned to {held} in input '{where}' and to {size} in input '{name}'",
                    "give inputs that share a symbol one size for it, or another symbol",
                )
