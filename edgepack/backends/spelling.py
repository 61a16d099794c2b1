"""Operators that a backend's format does not have and onnxruntime does: spelled with others when the backend reads the hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgepack.hub.passes.editing import Spellers, respelled, run_passes

if TYPE_CHECKING:
    import onnx_ir as ir


# Why an operator is left where nodes of its kind are spelled: cause and what to do instead.
LEFT = {
    "AffineGrid": ("its size comes in at run time", "give the size as a constant"),
    "CenterCropPad": ("its shape comes in at run time", "give the shape as a constant"),
    "Col2Im": ("it does not hold float32, or its image or block comes in at run time", "give image_shape and block_shape as constants"),
    "Compress": ("its condition is computed at run time, so that only a run tells how many elements remain", "compress by a constant"),
    "DeformConv": ("it is of volumes, or reads more than 2^27 numbers at once", "use images, of fewer channels or pixels"),
    "MaxUnpool": ("its windows overlap, it crops, or it does not hold float32", "unpool with strides no smaller than the kernel"),
    "OneHot": ("its depth comes in at run time", "give the depth as a constant"),
    "RoiAlign": (
        "it takes a maximum, or as many samples as a box is large, or reads more than 2^27 numbers at once",
        "use mode avg with a sampling_ratio of 1 or 2",
    ),
    "TensorScatter": ("its cache has no static shape", "pin the symbolic dimensions"),
}


def respell(model: ir.Model, rounds: Sequence[Spellers]) -> None:
    """Spell nodes in place, one table of spellings after the other: a later one may spell what an earlier one wrote.

    What the new nodes compute from constants alone is computed here.

    Args:
        model: static shapes; the values that spelling adds get theirs.
    """
    from onnx_ir.passes import common
    from onnxscript import optimizer

    held = {node.name for node in model.graph}
    for spellers in rounds:
        if respelled(model, spellers):
            run_passes(model, common.ShapeInferencePass())
            optimizer.fold_constants(model, should_fold=lambda node: False if node.name in held else None)
            lift = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
            run_passes(model, lift, common.RemoveUnusedNodesPass())
