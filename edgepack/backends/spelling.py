"""Operators that a backend's format does not have and onnxruntime does: spelled with others when the backend reads the hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgepack.hub.passes.editing import Spellers, respelled, run_passes

if TYPE_CHECKING:
    import onnx_ir as ir


def respell(model: ir.Model, rounds: Sequence[Spellers]) -> None:
    """Spell nodes in place, one table of spellings after the other: a later one may spell what an earlier one wrote.

    Args:
        model: static shapes; the values that spelling adds get theirs.
    """
    from onnx_ir.passes import common

    for spellers in rounds:
        if respelled(model, spellers):
            run_passes(model, common.ShapeInferencePass())
