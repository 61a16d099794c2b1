"""What can be computed before the first input is known, and operators that do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import constant
from edgepack.hub.passes.editing import Speller, Spelling, fingerprint, known_shape, respelled, run_passes
from edgepack.hub.passes.structure import embed_constants, input_names, restore_inputs

if TYPE_CHECKING:
    import onnx_ir as ir

# A fold may make constant what a rule before it waited for; onnxscript's own optimizer goes round as often.
_ROUNDS = 2


def fold_constants(model: ir.Model) -> bool:
    """Everything computable from constants and static shapes; DequantizeLinear of a weight stays, it is the weight's encoding."""
    from onnx_ir.passes import common
    from onnxscript import optimizer
    from onnxscript.rewriter import RewriteRuleSet, rewrite
    from onnxscript.rewriter.rules import common as rules

    before, names = fingerprint(model), input_names(model)
    # onnxscript keeps ConstantOfShape for the sake of size; the shape arithmetic of TorchScript's exporter (nn.ZeroPad2d) hangs on it.
    kept = {"DequantizeLinear": False, "ConstantOfShape": True}
    # Of onnxscript's default rules all but those of add_0 and mul_by_1: they take 1e-8 for 0 and 1.00001 for 1, so an epsilon is lost.
    chosen = [
        rules.one_reshape_matmul_reshape_rule,
        rules.two_reshapes_matmul_reshape_rule,
        rules.cast_constant_of_shape_rule,
        rules.cast_constant_of_shape_without_value_rule,
        rules.collapse_slice_rule,
        rules.collapse_slice2_rule,
        rules.materialize_reshape_shape_rule,
        rules.min_min_rule,
        rules.max_max_rule,
        rules.min_max_rule,
        rules.max_min_rule,
        rules.successive_relu_rule,
        rules.successive_clip_rule,
        rules.successive_clip_relu_rule,
        rules.successive_relu_clip_rule,
        rules.cast_cast_rule,
        rules.no_op_cast_rule,
        rules.no_op_expand_rule,
        rules.flatten_to_reshape_rule,
        rules.reshape_reshape_rule,
        rules.slice_split_rule,
        rules.no_op_transpose_rule,
        rules.transpose_transpose_rule,
        rules.unsqueeze_unsqueeze_rule,
        rules.squeeze_reshape_1d_rule,
        rules.no_op_dynamic_scatter_nd_rule,
        rules.no_op_static_scatter_nd_rule,
        rules.normalize_pad_format_conv_rule,
        rules.fuse_pad_into_conv_rule,
        rules.fuse_batchnorm_into_conv_rule,
        rules.fuse_batchnorm_into_conv_transpose_rule,
        rules.fuse_batchnorm_into_gemm_rule,
        rules.remove_optional_bias_from_conv_rule,
        rules.remove_optional_bias_from_conv_transpose_rule,
        rules.remove_optional_bias_from_gemm_rule,
        rules.dropout_inference_rule,
        rules.dropout_zero_rule,
    ]
    for _ in range(_ROUNDS):
        optimizer.fold_constants_ir(model, onnx_shape_inference=True, should_fold=lambda node: kept.get(node.op_type))
        rewrite(model, pattern_rewrite_rules=RewriteRuleSet(chosen))
        respelled(model, _NO_OPS)
    run_passes(
        model,
        common.RemoveUnusedNodesPass(),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )
    restore_inputs(model, names)
    embed_constants(model)
    return fingerprint(model) != before


def _does_nothing(neutral: int, places: tuple[int, ...]) -> Speller:
    """The other operand, where the one at one of ``places`` is exactly ``neutral`` throughout and broadcasts nothing."""

    def spelled(node: ir.Node, spell: Spelling) -> list[ir.Value | None] | None:
        shape = known_shape(node.outputs[0])
        for place in places:
            held, other = constant(node.inputs[place]), node.inputs[1 - place]
            if held is None or other is None or shape is None or known_shape(other) != shape:
                continue
            if held.size and np.array_equal(held, np.full(held.shape, neutral, held.dtype)):
                return [spell("Identity", other)]
        return None

    return spelled


_NO_OPS: dict[str, Speller] = {
    "Add": _does_nothing(0, (0, 1)),
    "Sub": _does_nothing(0, (1,)),
    "Mul": _does_nothing(1, (0, 1)),
    "Div": _does_nothing(1, (1,)),
}
