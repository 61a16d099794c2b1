"""Rewrites of layers: what is folded into Conv and Gemm, and the plain form of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import attribute, constant, label
from edgepack.hub.passes.editing import Spelling, fingerprint, initializer, respell, set_attributes

if TYPE_CHECKING:
    import onnx_ir as ir


def fold_patterns(model: ir.Model) -> bool:
    """Affine neighbours into Conv and Gemm, chains of shape operators into one, operators that do nothing away."""
    from onnxscript.rewriter import RewriteRuleSet, rewrite
    from onnxscript.rewriter.rules import common as rules

    chosen = [
        rules.fuse_batchnorm_into_conv_rule,
        rules.fuse_batchnorm_into_conv_transpose_rule,
        rules.fuse_batchnorm_into_gemm_rule,
        rules.dropout_inference_rule,
        rules.dropout_zero_rule,
        rules.flatten_to_reshape_rule,
        rules.reshape_reshape_rule,
        rules.transpose_transpose_rule,
        rules.no_op_transpose_rule,
        rules.no_op_cast_rule,
        rules.no_op_expand_rule,
        rules.normalize_pad_format_conv_rule,
        rules.fuse_pad_into_conv_rule,
        rules.successive_relu_rule,
        rules.successive_clip_rule,
        rules.successive_clip_relu_rule,
        rules.successive_relu_clip_rule,
    ]
    before = fingerprint(model)
    rewrite(model, pattern_rewrite_rules=RewriteRuleSet(chosen))
    return fingerprint(model) != before


def no_batch_norm_after_linear(model: ir.Model) -> str | None:
    for node in model.graph:
        producer = node.inputs[0].producer() if node.op_type == "BatchNormalization" and node.inputs[0] is not None else None
        if producer is not None and producer.op_type in ("Conv", "Gemm") and _can_absorb(producer, node):
            return f"{label(node)} still follows {label(producer)}"
    return None


def _can_absorb(linear: ir.Node, norm: ir.Node) -> bool:
    """Only ``norm`` reads the product, and the weights of both are constants that no other node reads."""
    product, own = linear.outputs[0], [value for value in linear.inputs[1:] if value is not None]
    if product.is_graph_output() or len(list(product.uses())) != 1 or attribute(norm, "training_mode", 0):
        return False
    if any(constant(value) is None for value in (*own, *norm.inputs[1:])):
        return False
    return all(use.node is linear for value in own for use in value.uses())


def normalize_gemm(model: ir.Model) -> bool:
    """Gemm with constant weights becomes x @ W^T + b: transB = 1, alpha = beta = 1, all three folded into the constants.

    Source: ONNX Gemm-13, Y = alpha * A' * B' + beta * C. A Gemm whose weights or bias are computed is left. A is transposed, and a bias
    that differs from row to row is added, by a node of its own.
    """
    changed = [respell(model.graph, node, _turned) for node in list(model.graph) if node.op_type == "Gemm"]
    changed += [respell(model.graph, node, _without_rows) for node in list(model.graph) if node.op_type == "Gemm"]
    changed += [_plain_gemm(model.graph, node) for node in list(model.graph) if node.op_type == "Gemm"]
    return any(changed)


def _turned(node: ir.Node, spell: Spelling) -> list[ir.Value] | None:
    """transA as a Transpose, where the weight is constant."""
    if not attribute(node, "transA", 0) or constant(node.inputs[1]) is None:
        return None
    kept = {name: attribute(node, name) for name in ("alpha", "beta", "transB") if name in node.attributes}
    return [spell("Gemm", spell("Transpose", node.inputs[0], perm=[1, 0]), *node.inputs[1:], **kept)]


def _without_rows(node: ir.Node, spell: Spelling) -> list[ir.Value] | None:
    """alpha * A' * B', then the rows of beta * C."""
    rows = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if rows is None or rows.ndim != 2 or rows.shape[0] == 1:
        return None
    kept = {name: attribute(node, name) for name in ("alpha", "transA", "transB") if name in node.attributes}
    product = spell("Gemm", *node.inputs[:2], **kept)
    return [spell("Add", product, spell.constant(rows * rows.dtype.type(attribute(node, "beta", 1.0)), rows.dtype))]


def _plain_gemm(graph: ir.Graph, node: ir.Node) -> bool:
    weight, bias = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
    unknown_bias = len(node.inputs) > 2 and node.inputs[2] is not None and bias is None
    if weight is None or unknown_bias or _gemm_is_plain(node):
        return False
    alpha, beta, transposed = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0), attribute(node, "transB", 0)
    plain = (weight if transposed else weight.T) * weight.dtype.type(alpha)
    node.replace_input_with(1, initializer(graph, f"{node.inputs[1].name}/{node.name}", np.ascontiguousarray(plain)))  # type: ignore[union-attr]
    if bias is not None:
        full = np.broadcast_to(bias.reshape(-1) * bias.dtype.type(beta), (plain.shape[0],))
        node.replace_input_with(2, initializer(graph, f"{node.inputs[2].name}/{node.name}", np.ascontiguousarray(full)))  # type: ignore[union-attr]
    set_attributes(node, {"transB": 1, "alpha": None, "beta": None})
    return True


def _gemm_is_plain(node: ir.Node) -> bool:
    weight, bias = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
    scaled = attribute(node, "alpha", 1.0) != 1.0 or (bias is not None and attribute(node, "beta", 1.0) != 1.0)
    fits = bias is None or weight is None or bias.shape == weight.shape[:1]
    return attribute(node, "transB", 0) == 1 and not attribute(node, "transA", 0) and not scaled and fits


def gemms_are_plain(model: ir.Model) -> str | None:
    for node in model.graph:
        if node.op_type == "Gemm" and constant(node.inputs[1]) is not None and not _gemm_is_plain(node):
            computed_bias = len(node.inputs) > 2 and node.inputs[2] is not None and constant(node.inputs[2]) is None
            if not computed_bias:
                return f"{label(node)} is not x @ W^T + b"
    return None
