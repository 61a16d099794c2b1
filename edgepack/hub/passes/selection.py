"""Rewrites of operators that pick elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import attribute, constant
from edgepack.hub.passes.editing import Speller, Spelling, known_shape

if TYPE_CHECKING:
    import onnx_ir as ir


def gather_nd(node: ir.Node, spell: Spelling) -> list[ir.Value | None] | None:
    """ONNX GatherND-13 with constant indices (..., k) into data of known shape: the first k axes as one, and a Gather along it.

    Causal decoders of transformers pick from their attention mask so. Batches (batch_dims) stay, and indices outside their axis are left to
    the runtime to refuse.
    """
    shape, indices = known_shape(node.inputs[0]), constant(node.inputs[1])
    if shape is None or indices is None or attribute(node, "batch_dims", 0) or not indices.ndim:
        return None
    count = indices.shape[-1]
    picked = np.asarray(shape[:count], np.int64)
    if 0 in shape or not count or (indices < -picked).any() or (indices >= picked).any():
        return None
    flat = np.ravel_multi_index(tuple(np.moveaxis(indices % picked, -1, 0)), tuple(picked))
    merged = spell("Reshape", node.inputs[0], spell.integers(-1, *shape[count:]))
    return [spell("Gather", merged, spell.constant(flat, np.int64), axis=0)]


SPELLERS: dict[str, Speller] = {"GatherND": gather_nd}
