"""The rewrites of the canonical form: onnx_ir's and onnxscript's where they exist, our own where they do not. A file is a family."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from edgepack.hub.passes import (
    activations,
    bodies,
    control,
    declared,
    elementwise,
    folding,
    geometry,
    layers,
    losses,
    matrices,
    normalization,
    pads,
    pools,
    recurrent,
    reductions,
    shapes,
    signals,
    structure,
)
from edgepack.hub.passes.contract import Outcome, Rewrite
from edgepack.hub.passes.editing import Spellers, respelled
from edgepack.hub.passes.recurrent import plain_layers
from edgepack.hub.passes.structure import drop_unused

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Outcome", "Rewrite", "after_pinning", "drop_unused", "plain_layers", "sequence"]


def _spell(model: ir.Model, spellers: Spellers) -> bool:
    """Respell, then fold what that made constant and infer the shapes of the rest, which the next rewrite reads."""
    changed = respelled(model, spellers)
    if changed:
        folding.fold_constants(model)
    return changed


def _spelled(spellers: Spellers) -> Callable[[ir.Model], bool]:
    return partial(_spell, spellers=spellers)


def sequence() -> list[Rewrite]:
    """All rewrites in the order in which they run; a later one may rely on what an earlier one ensures."""
    return [
        Rewrite("name nodes", structure.name_nodes),
        Rewrite("inline functions", structure.inline, ensures=structure.no_functions),
        Rewrite("embed constants", structure.embed_constants, ensures=structure.no_constant_nodes),
        Rewrite("declared shapes", declared.resolve),
        Rewrite("whole windows", pools.whole_windows),
        Rewrite("scatter by rows", structure.scatter_by_rows),
        Rewrite("fold constants", folding.fold_constants, structure.no_functions),
        Rewrite("write out control flow", control.write_out),
        Rewrite("canonical bodies", bodies.canonical_bodies),
        Rewrite("plain recurrent layers", recurrent.plain_layers, ensures=recurrent.are_plain),
        Rewrite("fold patterns", layers.fold_patterns, ensures=layers.no_batch_norm_after_linear),
        Rewrite("normalize Gemm", layers.normalize_gemm, ensures=layers.gemms_are_plain),
        Rewrite("global pools", pools.global_pools, ensures=pools.no_mean_over_space),
        Rewrite("explicit pads", pads.explicit_pads, ensures=pads.no_auto_pad),
        Rewrite("transposed pads", pads.explicit_transposed),
        Rewrite("whole windows", pools.whole_windows),
        *_spellings(),
        Rewrite("static reshapes", shapes.static_reshapes),
        Rewrite("fewer axes", shapes.transposes_of_few_axes),
        Rewrite("share and drop", structure.share_and_drop),
        Rewrite("strip defaults", structure.strip_defaults),
        Rewrite("drop metadata", structure.drop_metadata),
        Rewrite("name nodes", structure.name_nodes, ensures=structure.all_named),
        Rewrite("infer shapes", structure.infer_shapes, ensures=structure.all_typed),
    ]


def _spellings() -> list[Rewrite]:
    """Operators, or forms of them, that are said with others."""
    return [
        Rewrite("fuse activations", _spelled(activations.SPELLERS)),
        Rewrite("declared shapes", _spelled(shapes.DECLARED)),
        Rewrite("whole parts", _spelled(shapes.PARTS)),
        Rewrite("spell losses", _spelled(losses.SPELLERS)),
        Rewrite("spell transforms", _spelled(signals.SPELLERS)),
        Rewrite("spell matrices", _spelled(matrices.SPELLERS)),
        Rewrite("spell operands", _spelled(elementwise.SPELLERS)),
        Rewrite("spell reductions", _spelled(reductions.SPELLERS)),
        Rewrite("spell normalizations", _spelled(normalization.SPELLERS)),
        Rewrite("spell selections", _spelled(geometry.SELECTIONS)),
        Rewrite("spell geometry", _spelled(geometry.HUB)),
        Rewrite("spell pads", _spelled(shapes.PADS)),
        Rewrite("pools of volumes", _spelled(pools.VOLUMES)),
        Rewrite("spell pools", _spelled(pools.IMAGES)),
    ]


def after_pinning() -> list[Rewrite]:
    """What must run again once sizes are known: shapes, what can be computed from them, and names for new nodes."""
    by_name = {rewrite.name: rewrite for rewrite in sequence()}
    first = ("whole windows", "infer shapes", "fold constants", "write out control flow", "canonical bodies", "transposed pads")
    last = ("static reshapes", "fewer axes", "share and drop", "strip defaults", "name nodes", "infer shapes")
    return [*(by_name[name] for name in first), *_spellings(), *(by_name[name] for name in last)]
