"""Rewrites of the whole graph: functions, constants, sharing, names, shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgepack.hub.graph import OPSET, HubError, attribute, label
from edgepack.hub.passes import indices
from edgepack.hub.passes.editing import respelled, run_passes, set_attributes

if TYPE_CHECKING:
    import onnx_ir as ir


def inline(model: ir.Model) -> bool:
    from onnx_ir.passes import common

    return run_passes(model, common.InlinePass(), common.RemoveUnusedFunctionsPass(), common.RemoveUnusedOpsetsPass())


def no_functions(model: ir.Model) -> str | None:
    return f"{len(model.functions)} functions remain" if model.functions else None


def embed_constants(model: ir.Model) -> bool:
    from onnx_ir.passes import common

    # The pass leaves constants of fewer than 16 elements alone unless told otherwise.
    lift = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
    return run_passes(model, lift, common.RemoveInitializersFromInputsPass())


def no_constant_nodes(model: ir.Model) -> str | None:
    left = [node for node in model.graph if node.op_type == "Constant"]
    return f"{label(left[0])} is not an initializer" if left else None


def scatter_by_rows(model: ir.Model) -> bool:
    """A ScatterND with a reduction that the optimizer would mistake for a copy; what its indices are may show once they are folded."""
    from onnxscript import optimizer

    if not any(node.op_type == "ScatterND" and attribute(node, "reduction", "none") != "none" for node in model.graph):
        return False
    optimizer.fold_constants(model)
    embed_constants(model)
    return respelled(model, indices.LEADING)


def share_and_drop(model: ir.Model) -> bool:
    from onnx_ir.passes import common

    return run_passes(
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

    return run_passes(model, common.RemoveUnusedNodesPass())


def strip_defaults(model: ir.Model) -> bool:
    """Remove attributes that say what their absence says, so that a backend's table sees only what means something."""
    changed = [_strip(node, name) for node in model.graph for name in list(node.attributes)]
    changed += [_strip_dilations(node) for node in model.graph]
    return any(changed)


def _strip_dilations(node: ir.Node) -> bool:
    """Dilations that move nothing, 1 or of a window of 1: onnxruntime's integer average pool has no such attribute."""
    dilations = attribute(node, "dilations") or ()
    kernel = attribute(node, "kernel_shape") or [2] * len(dilations)
    if not dilations or any(dilation != 1 and size != 1 for dilation, size in zip(dilations, kernel, strict=True)):
        return False
    set_attributes(node, {"dilations": None})
    return True


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
    set_attributes(node, {name: None})
    return True


def drop_metadata(model: ir.Model) -> bool:
    """Nothing of the machine that exported the model: stack traces, paths, notes."""
    from onnx_ir.passes import common

    run_passes(model, common.ClearMetadataAndDocStringPass())
    return False


def name_nodes(model: ir.Model) -> bool:
    """Unique names made of the operator and its output."""
    from onnx_ir.passes import common

    for node in model.graph.all_nodes():
        if not node.name:
            node.name = f"{node.op_type}_{node.outputs[0].name}"
    run_passes(model, common.NameFixPass())
    _name_inner_values(model)
    return False


def _name_inner_values(model: ir.Model) -> None:
    """Names that no other body has: onnx's inference takes what it learnt of a value in one body for true in the next."""
    seen = {value.name for value in (*model.graph.inputs, *model.graph.initializers.values())}
    seen |= {value.name for node in model.graph for value in node.outputs}
    for graph in model.graph.subgraphs():
        for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
            name, count = value.name, 0
            while name and value.name in seen:
                count += 1
                value.name = f"{name}_{count}"
            seen.add(value.name)


def all_named(model: ir.Model) -> str | None:
    names = [node.name for node in model.graph]
    return None if all(names) and len(set(names)) == len(names) else "unique node names"


def infer_shapes(model: ir.Model) -> bool:
    from onnx_ir.passes import common

    names = input_names(model)
    with _normalized_by_layer(model):
        run_passes(model, common.ShapeInferencePass())
    run_passes(model, common.OutputFixPass())
    restore_inputs(model, names)
    _refuse_unknown_shapes(model)
    return False


@contextmanager
def _normalized_by_layer(model: ir.Model) -> Iterator[None]:
    """Group normalizations as layer normalizations: both keep the shape, and onnx infers it of the second alone (1.23)."""
    grouped = [node for node in model.graph.all_nodes() if node.op_type == "GroupNormalization"]
    for node in grouped:
        node.op_type = "LayerNormalization"
    try:
        yield
    finally:
        for node in grouped:
            node.op_type = "GroupNormalization"


def input_names(model: ir.Model) -> list[str | None]:
    """The names of the inputs, in order."""
    return [value.name for value in model.graph.inputs]


def restore_inputs(model: ir.Model, names: list[str | None]) -> None:
    """Undo what onnx_ir's OutputFixPass does to an input that is returned as it is: a new name for it, its own for an Identity of it."""
    outputs = model.graph.outputs
    for value, name in zip(model.graph.inputs, names, strict=True):
        if value.name == name:
            continue
        index = next(position for position, output in enumerate(outputs) if output.name == name)
        copy = outputs[index].producer()
        outputs[index] = value
        if copy is not None:
            model.graph.remove(copy, safe=True)
        value.name = name


def _refuse_unknown_shapes(model: ir.Model) -> None:
    for node in model.graph:
        unknown = next((value.name for value in node.outputs if value.name and (value.dtype is None or value.shape is None)), None)
        if unknown:
            raise HubError(
                f"{label(node)}: how many dimensions '{unknown}' has is only known at run time", "give axes and shapes as constants"
            )


def all_typed(model: ir.Model) -> str | None:
    for node in model.graph:
        for value in node.outputs:
            if value.name and (value.dtype is None or value.shape is None):
                return f"type and shape of '{value.name}' from {label(node)}"
    return None
