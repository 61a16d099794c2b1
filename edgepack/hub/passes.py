"""The rewrites of the canonical form: onnx_ir's and onnxscript's where they exist, our own where they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepack.hub.graph import OPSET, HubError, attribute, constant, label

if TYPE_CHECKING:
    import onnx_ir as ir

Condition = Callable[["ir.Model"], str | None]


@dataclass(frozen=True)
class Outcome:
    """Whether a rewrite changed the model."""

    modified: bool


@dataclass(frozen=True)
class Rewrite:
    """A rewrite with its contract.

    Attributes:
        name: as messages and packs name it.
        apply: rewrites in place and says whether anything changed.
        requires, ensures: what must hold before and after; each answers what does not hold, or None.
    """

    name: str
    apply: Callable[[ir.Model], bool]
    requires: Condition = lambda model: None
    ensures: Condition = lambda model: None

    def __call__(self, model: ir.Model) -> Outcome:
        """Apply between the two conditions; HubError naming this rewrite when one does not hold."""
        self._demand(self.requires(model), "needs")
        names = [value.name or "" for value in model.graph.outputs]
        modified = self.apply(model)
        _keep_output_names(model.graph, names)
        self._demand(self.ensures(model), "did not leave")
        return Outcome(modified)

    def _demand(self, broken: str | None, verb: str) -> None:
        if broken:
            raise HubError(f"rewrite {self.name} {verb} what it must: {broken}", "report this model")


def sequence() -> list[Rewrite]:
    """All rewrites in the order in which they run; a later one may rely on what an earlier one ensures."""
    return [
        Rewrite("name nodes", _name_nodes),
        Rewrite("inline functions", _inline, ensures=_no_functions),
        Rewrite("embed constants", _embed_constants, ensures=_no_constant_nodes),
        Rewrite("fold constants", _fold_constants, _no_functions),
        Rewrite("fold patterns", _fold_patterns, ensures=_no_batch_norm_after_linear),
        Rewrite("normalize Gemm", _normalize_gemm, ensures=_gemms_are_plain),
        Rewrite("global pools", _global_pools, ensures=_no_mean_over_space),
        Rewrite("explicit pads", _explicit_pads, ensures=_no_auto_pad),
        Rewrite("static reshapes", _static_reshapes),
        Rewrite("share and drop", _share_and_drop),
        Rewrite("strip defaults", _strip_defaults),
        Rewrite("drop metadata", _drop_metadata),
        Rewrite("name nodes", _name_nodes, ensures=_all_named),
        Rewrite("infer shapes", _infer_shapes, ensures=_all_typed),
    ]


def after_pinning() -> list[Rewrite]:
    """What must run again once sizes are known: shapes, what can be computed from them, and names for new nodes."""
    chosen = ("infer shapes", "fold constants", "static reshapes", "share and drop", "strip defaults", "name nodes", "infer shapes")
    by_name = {rewrite.name: rewrite for rewrite in sequence()}
    return [by_name[name] for name in chosen]


def _keep_output_names(graph: ir.Graph, names: list[str]) -> None:
    """Outputs keep their names and number when a pass finds that two of them are one value: the second becomes an Identity."""
    import onnx_ir as ir

    kept: set[int] = set()
    for index, name in enumerate(names):
        value = graph.outputs[index]
        if id(value) in kept:
            copy = ir.node("Identity", [value], name=f"Identity_{name}")
            copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
            graph.append(copy)
            graph.outputs[index] = value = copy.outputs[0]
        kept.add(id(value))
        if value.name != name:
            value.name = name


def _run(model: ir.Model, *ir_passes: Any) -> bool:
    """All of the passes, in order; whether any of them changed the model."""
    modified = [run(model).modified for run in ir_passes]
    return any(modified)


def _inline(model: ir.Model) -> bool:
    from onnx_ir.passes import common

    return _run(model, common.InlinePass(), common.RemoveUnusedFunctionsPass(), common.RemoveUnusedOpsetsPass())


def _no_functions(model: ir.Model) -> str | None:
    return f"{len(model.functions)} functions remain" if model.functions else None


def _embed_constants(model: ir.Model) -> bool:
    from onnx_ir.passes import common

    # The pass leaves constants of fewer than 16 elements alone unless told otherwise.
    lift = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
    modified = _run(model, lift, common.RemoveInitializersFromInputsPass())
    _refuse_constant_outputs(model)
    return modified


def _refuse_constant_outputs(model: ir.Model) -> None:
    for value in model.graph.outputs:
        producer = value.producer()
        if value.is_initializer() or (producer is not None and producer.op_type == "Constant"):
            raise HubError(f"output '{value.name}' is a constant, whatever the inputs are", "leave it out of the student's outputs")


def _no_constant_nodes(model: ir.Model) -> str | None:
    left = [node for node in model.graph if node.op_type == "Constant"]
    return f"{label(left[0])} is not an initializer" if left else None


def _fold_constants(model: ir.Model) -> bool:
    """Everything computable from constants and static shapes; DequantizeLinear of a weight stays, it is the weight's encoding."""
    from onnxscript import optimizer

    before = _fingerprint(model)
    # onnxscript keeps ConstantOfShape for the sake of size; the shape arithmetic of TorchScript's exporter (nn.ZeroPad2d) hangs on it.
    optimizer.optimize_ir(model, should_fold=lambda node: {"DequantizeLinear": False, "ConstantOfShape": True}.get(node.op_type))
    _embed_constants(model)
    return _fingerprint(model) != before


def _fold_patterns(model: ir.Model) -> bool:
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
    before = _fingerprint(model)
    rewrite(model, pattern_rewrite_rules=RewriteRuleSet(chosen))
    return _fingerprint(model) != before


def _no_batch_norm_after_linear(model: ir.Model) -> str | None:
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


def _normalize_gemm(model: ir.Model) -> bool:
    """Gemm with constant weights becomes x @ W^T + b: transB = 1, alpha = beta = 1, all three folded into the constants.

    Source: ONNX Gemm-13, Y = alpha * A' * B' + beta * C. A Gemm whose operands are computed, or whose A is transposed, is left.
    """
    changed = [_plain_gemm(model.graph, node) for node in list(model.graph) if node.op_type == "Gemm"]
    return any(changed)


def _plain_gemm(graph: ir.Graph, node: ir.Node) -> bool:
    weight, bias = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
    unknown_bias = len(node.inputs) > 2 and node.inputs[2] is not None and bias is None
    if weight is None or unknown_bias or attribute(node, "transA", 0) or _gemm_is_plain(node):
        return False
    alpha, beta, transposed = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0), attribute(node, "transB", 0)
    plain = (weight if transposed else weight.T) * weight.dtype.type(alpha)
    node.replace_input_with(1, _initializer(graph, f"{node.inputs[1].name}/{node.name}", np.ascontiguousarray(plain)))  # type: ignore[union-attr]
    if bias is not None:
        if bias.ndim == 2 and bias.shape[0] != 1:
            raise HubError(f"{label(node)} has a bias of shape {bias.shape}, one for each row", "give the layer one bias for each output")
        full = np.broadcast_to(bias.reshape(-1) * bias.dtype.type(beta), (plain.shape[0],))
        node.replace_input_with(2, _initializer(graph, f"{node.inputs[2].name}/{node.name}", np.ascontiguousarray(full)))  # type: ignore[union-attr]
    _set_attributes(node, {"transB": 1, "alpha": None, "beta": None})
    return True


def _gemm_is_plain(node: ir.Node) -> bool:
    weight, bias = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
    scaled = attribute(node, "alpha", 1.0) != 1.0 or (bias is not None and attribute(node, "beta", 1.0) != 1.0)
    fits = bias is None or weight is None or bias.shape == weight.shape[:1]
    return attribute(node, "transB", 0) == 1 and not scaled and fits


def _gemms_are_plain(model: ir.Model) -> str | None:
    for node in model.graph:
        if (
            node.op_type == "Gemm"
            and constant(node.inputs[1]) is not None
            and not attribute(node, "transA", 0)
            and not _gemm_is_plain(node)
        ):
            computed_bias = len(node.inputs) > 2 and node.inputs[2] is not None and constant(node.inputs[2]) is None
            if not computed_bias:
                return f"{label(node)} is not x @ W^T + b"
    return None


def _global_pools(model: ir.Model) -> bool:
    """ReduceMean over exactly the spatial axes of (N, C, H, W) becomes GlobalAveragePool, which onnxruntime has an integer kernel for."""
    nodes = [node for node in model.graph if _is_mean_over_space(node)]
    for node in nodes:
        _pool_globally(model.graph, node)
    return bool(nodes)


def _is_mean_over_space(node: ir.Node) -> bool:
    source = node.inputs[0] if node.op_type == "ReduceMean" else None
    axes = constant(node.inputs[1]) if source is not None and len(node.inputs) > 1 else None
    if source is None or axes is None or source.shape is None or len(source.shape) != 4 or node.outputs[0].shape is None:
        return False
    if source.dtype is None or not source.dtype.is_floating_point():
        return False
    return sorted(int(axis) % 4 for axis in axes) == [2, 3]


def _pool_globally(graph: ir.Graph, node: ir.Node) -> None:
    """With keepdims the pool itself; without, the pool and a Reshape that drops the two axes of size 1."""
    import onnx_ir as ir

    source, output = node.inputs[0], node.outputs[0]
    assert source is not None and source.shape is not None
    pool = ir.node("GlobalAveragePool", [source], name=f"{node.name}/pool")
    replacement, pooled = pool, pool.outputs[0]
    pooled.name, pooled.type = f"{output.name}/pooled", output.type
    pooled.shape = ir.Shape([*source.shape[:2], 1, 1])
    added = [pool]
    if not attribute(node, "keepdims", 1):
        shape = _initializer(graph, f"{output.name}/shape", np.asarray([0, -1], np.int64))
        replacement = ir.node("Reshape", [pooled, shape], name=f"{node.name}/reshape")
        added.append(replacement)
    ir.convenience.replace_nodes_and_values(graph, node, [node], added, [output], [replacement.outputs[0]])


def _no_mean_over_space(model: ir.Model) -> str | None:
    left = [node for node in model.graph if _is_mean_over_space(node)]
    return f"{label(left[0])} is not a GlobalAveragePool" if left else None


_PADDED = ("Conv", "MaxPool", "AveragePool", "LpPool")


def _explicit_pads(model: ir.Model) -> bool:
    """auto_pad becomes pads where the spatial size is known (ONNX Conv-11, "auto_pad")."""
    changed = [_plain_pads(node) for node in model.graph if node.op_type in _PADDED and attribute(node, "auto_pad", "NOTSET") != "NOTSET"]
    return any(changed)


def _plain_pads(node: ir.Node) -> bool:
    mode, source = attribute(node, "auto_pad"), node.inputs[0]
    spatial = list(source.shape)[2:] if source is not None and source.shape is not None else []
    if mode == "VALID":
        _set_attributes(node, {"auto_pad": None, "pads": None})
        return True
    if not spatial or not all(isinstance(size, int) for size in spatial):
        raise HubError(f"{label(node)} has auto_pad {mode} on a size that is not known", "declare the image size in the student")
    window = attribute(node, "kernel_shape") or _kernel_shape(node)
    ones = [1] * len(spatial)
    strides, dilations = attribute(node, "strides", ones), attribute(node, "dilations", ones)
    totals = [
        max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        for size, kernel, stride, dilation in zip(spatial, window, strides, dilations, strict=True)
    ]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    _set_attributes(node, {"auto_pad": None, "pads": small + large if mode == "SAME_UPPER" else large + small})
    return True


def _kernel_shape(node: ir.Node) -> list[int]:
    weight = constant(node.inputs[1])
    if weight is None:
        raise HubError(f"{label(node)} has no kernel_shape and computed weights", "export the student with constant weights")
    return list(weight.shape[2:])


def _no_auto_pad(model: ir.Model) -> str | None:
    left = [node for node in model.graph if node.op_type in _PADDED and attribute(node, "auto_pad", "NOTSET") != "NOTSET"]
    return f"{label(left[0])} keeps auto_pad" if left else None


def _static_reshapes(model: ir.Model) -> bool:
    """A Reshape whose result is known carries it: sizes, with -1 for the one symbolic dimension; no zeros, no allowzero."""
    changed = [_static_reshape(model.graph, node) for node in list(model.graph) if node.op_type == "Reshape"]
    return any(changed)


def _static_reshape(graph: ir.Graph, node: ir.Node) -> bool:
    shape, held = node.outputs[0].shape, constant(node.inputs[1])
    if (
        shape is None
        or (unknown := sum(not isinstance(size, int) for size in shape)) > 1
        or 0 in [size for size in shape if isinstance(size, int)]
    ):
        return False
    target = np.asarray([size if isinstance(size, int) else -1 for size in shape], np.int64)
    if unknown == 0 and len(target) and held is not None and np.array_equal(held, target) and not attribute(node, "allowzero", 0):
        return False
    if unknown and (held is None or np.array_equal(held, target)) and not attribute(node, "allowzero", 0):
        return False
    node.replace_input_with(1, _initializer(graph, f"{node.outputs[0].name}/shape", target))
    _set_attributes(node, {"allowzero": None})
    return True


def _share_and_drop(model: ir.Model) -> bool:
    from onnx_ir.passes import common

    return _run(
        model,
        common.IdentityEliminationPass(),
        common.CommonSubexpressionEliminationPass(),
        common.DeduplicateInitializersPass(),
        common.RemoveUnusedNodesPass(),
        common.TopologicalSortPass(),
    )


def drop_unused(model: ir.Model) -> bool:
    """Remove nodes and initializers that no output needs, such as real weights that codes replaced."""
    from onnx_ir.passes import common

    return _run(model, common.RemoveUnusedNodesPass())


def _strip_defaults(model: ir.Model) -> bool:
    """Remove attributes that say what their absence says, so that a backend's table sees only what means something."""
    changed = [_strip(node, name) for node in model.graph for name in list(node.attributes)]
    return any(changed)


def _strip(node: ir.Node, name: str) -> bool:
    import onnx
    from onnx import defs

    schema = defs.get_schema(node.op_type, OPSET) if defs.has(node.op_type) else None
    default = schema.attributes[name].default_value if schema is not None and name in schema.attributes else None
    if default is None or default.type == onnx.AttributeProto.UNDEFINED:
        return False
    value = onnx.helper.get_attribute_value(default)
    value = value.decode() if isinstance(value, bytes) else value
    if attribute(node, name) != value:
        return False
    _set_attributes(node, {name: None})
    return True


def _drop_metadata(model: ir.Model) -> bool:
    """Nothing of the machine that exported the model: stack traces, paths, notes."""
    from onnx_ir.passes import common

    _run(model, common.ClearMetadataAndDocStringPass())
    return False


def _name_nodes(model: ir.Model) -> bool:
    """Unique names made of the operator and its output."""
    from onnx_ir.passes import common

    for node in model.graph:
        if not node.name:
            node.name = f"{node.op_type}_{node.outputs[0].name}"
    _run(model, common.NameFixPass())
    return False


def _all_named(model: ir.Model) -> str | None:
    names = [node.name for node in model.graph]
    return None if all(names) and len(set(names)) == len(names) else "unique node names"


def _infer_shapes(model: ir.Model) -> bool:
    from onnx_ir.passes import common

    _run(model, common.ShapeInferencePass(), common.OutputFixPass())
    return False


def _all_typed(model: ir.Model) -> str | None:
    for node in model.graph:
        for value in node.outputs:
            if value.name and (value.dtype is None or value.shape is None):
                return f"type and shape of '{value.name}' from {label(node)}"
    return None


def _initializer(graph: ir.Graph, name: str, array: Any) -> ir.Value:
    import onnx_ir as ir

    while name in graph.initializers:
        name += "_"
    value = ir.Value(
        name=name,
        const_value=ir.tensor(array, name=name),
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
    )
    graph.register_initializer(value)
    return value


def _set_attributes(node: ir.Node, values: dict[str, Any]) -> None:
    """Set attributes; None removes."""
    from onnx_ir.convenience import convert_attribute

    for name, value in values.items():
        if value is None:
            node.attributes.pop(name, None)
        else:
            node.attributes[name] = convert_attribute(name, value)


def _fingerprint(model: ir.Model) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """What a pass that does not report changes may have changed: nodes and their wiring."""
    return [
        (
            node.op_type,
            tuple(value.name or "" if value is not None else "" for value in node.inputs),
            tuple(value.name or "" for value in node.outputs),
        )
        for node in model.graph
    ]
