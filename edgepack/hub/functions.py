"""Operators that ONNX defines as functions of others: the bodies that take their place in a graph.

Source: the function bodies in ``onnx.defs``. Some are fixed; the others (context-dependent) are built for one node from its attributes and
the types of its inputs, so that shapes are inferred first. An operator that came after the hub's opset and has no body is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgepack.errors import one_line
from edgepack.hub.bodies import BODIES
from edgepack.hub.graph import OPSET, HubError

if TYPE_CHECKING:
    import onnx

ONNX = ("", "ai.onnx")
# Where onnx keeps operators that are not standard yet, some of them functions (FlexAttention).
PREVIEW = "ai.onnx.preview"
# The domain of the bodies between being built and being inlined.
_BODIES = "edgepack.bodies"
# Bodies hold operators that are functions themselves (CastLike in Attention); none of ONNX's goes deeper than this.
_DEEPEST = 8
_MOST_PARAMETERS = 16

Chosen = Callable[["onnx.NodeProto"], bool]
Types = Mapping[str, "onnx.TypeProto"]


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own domain, 0 when the model imports none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ONNX), default=0)


def has_body(node: onnx.NodeProto) -> bool:
    """Whether ONNX defines the node's operator as a function."""
    import onnx

    schema = schema_of(node, onnx.defs.onnx_opset_version())
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def is_newer_than_hub(node: onnx.NodeProto) -> bool:
    """Whether ONNX got the operator, or a mode of it, after the hub's opset."""
    if node.domain == PREVIEW:
        return has_body(node)
    if node.domain not in ONNX:
        return False
    is_rearranged = node.op_type == "SpaceToDepth" and any(held.name == "mode" and held.s != b"DCR" for held in node.attribute)
    return is_rearranged or (schema_of(node, OPSET) is None and (has_body(node) or node.op_type in BODIES))


# Operators that the hub's opset has and no backend: of little work, or of a training graph.
_SAID_WITH_OTHERS = frozenset({"CastLike"})


def is_said_with_others(node: onnx.NodeProto) -> bool:
    """Whether the hub's canonical form has no such operator, although its opset does."""
    return node.domain in ONNX and node.op_type in _SAID_WITH_OTHERS


def is_shift(node: onnx.NodeProto) -> bool:
    """BitShift, which the hub's opset has of unsigned numbers only."""
    return node.domain in ONNX and node.op_type == "BitShift"


def expanded(model: onnx.ModelProto, chosen: Chosen) -> onnx.ModelProto:
    """The model with the bodies of the chosen operators in their places, at every depth; the model itself when there is none.

    Raises:
        HubError: the type of an input, on which a body depends, is not known.
    """
    from onnx import inliner

    if not any(map(chosen, all_nodes(model))):
        return model
    written = inliner.inline_local_functions(model) if model.functions else model
    for _ in range(_DEEPEST):
        called = _with_calls(written, chosen)
        if not called.functions:
            break
        written = inliner.inline_local_functions(called)
    left = next(filter(chosen, all_nodes(written)), None)
    if left is not None:
        raise HubError(f"{left.op_type} '{left.name}': the type of an input is not known", "give the student's inputs types")
    return _without_domains(written)


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node at every depth, those of the model's own functions included."""
    yield from _nodes(model.graph)
    for function in model.functions:
        yield from function.node


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _with_calls(model: onnx.ModelProto, chosen: Chosen) -> onnx.ModelProto:
    """A copy whose chosen nodes call functions of the model, one function a node."""
    import onnx

    inferred = _inferred(model)
    opset = opset_of(model)
    _call_bodies(inferred.graph, {}, inferred.functions, opset, chosen)
    if inferred.functions:
        inferred.opset_import.append(onnx.helper.make_opsetid(_BODIES, 1))
    return inferred


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the types of its values; those that cannot be inferred stay unknown."""
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # an operator that contradicts its schema: the checker names it later, here only the types are missing
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy


def _call_bodies(graph: onnx.GraphProto, outer: Types, functions: list[onnx.FunctionProto], opset: int, chosen: Chosen) -> None:
    types = {**outer, **_types(graph)}
    constants = _constants(graph)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _call_bodies(attribute.g, types, functions, opset, chosen)
        if not chosen(node):
            continue
        own = BODIES.get(node.op_type)
        body = own(node, types, constants) if own else _body(node, types, opset)
        if body is not None:
            # Bodies of an older opset hold operators that kept their meaning, or the schema would have a newer body.
            for entry in body.opset_import:
                entry.version = opset if entry.domain in ONNX else entry.version
            _write_defaults(node, body, opset)
            body.name, body.domain = f"{node.op_type}_{len(functions)}", _BODIES
            functions.append(body)
            node.op_type, node.domain = body.name, _BODIES


def _write_defaults(node: onnx.NodeProto, body: onnx.FunctionProto, opset: int) -> None:
    """Attributes that the body refers to and the node leaves out; bodies in ``onnx.defs`` do not repeat the schema's defaults."""
    schema, given = schema_of(node, opset), {held.name for held in node.attribute}
    assert schema is not None
    for name in body.attribute:
        default = schema.attributes[name].default_value
        if name not in given and default.type:
            node.attribute.append(default)


def _types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    import onnx

    weights = {held.name: onnx.helper.make_tensor_type_proto(held.data_type, list(held.dims)) for held in graph.initializer}
    return weights | {value.name: value.type for value in (*graph.input, *graph.output, *graph.value_info)}


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    """Initializers and tensors of Constant nodes that operators read as parameters: of up to 16 elements."""
    from onnx import numpy_helper

    small = [held for held in graph.initializer if math.prod(held.dims) <= _MOST_PARAMETERS]
    made = [(node.output[0], held.t) for node in graph.node if node.op_type == "Constant" for held in node.attribute if held.HasField("t")]
    named = [*((held.name, held) for held in small), *made]
    return {name: numpy_helper.to_array(held) for name, held in named if math.prod(held.dims) <= _MOST_PARAMETERS}


def _body(node: onnx.NodeProto, types: Types, opset: int) -> onnx.FunctionProto | None:
    """The node's function at the model's opset; None while it waits for a type that an earlier body will tell."""
    import onnx

    schema = schema_of(node, opset)
    assert schema is not None
    version = 1 if node.domain == PREVIEW else opset
    body = onnx.FunctionProto()
    if schema.has_function:
        body.CopyFrom(schema.function_body)
    elif any(name and name not in types for name in node.input):
        return None
    else:
        held = [types[name] if name else onnx.TypeProto() for name in node.input]
        asked = max(known for known in schema.context_dependent_function_opset_versions if known <= version)
        try:
            text = schema.get_context_dependent_function_with_opset_version(
                asked, node.SerializeToString(), [kind.SerializeToString() for kind in held]
            )
        except Exception as error:
            raise HubError(f"{node.op_type} '{node.name}' has no function body ({one_line(error)})", "give its inputs types") from error
        body.ParseFromString(text)
    return body


def schema_of(node: onnx.NodeProto, opset: int) -> Any:
    """The ``OpSchema`` (whose stubs leave its functions out) of the node's operator at an opset, None when ONNX has none of that name."""
    from onnx import defs

    domain, version = ("", opset) if node.domain in ONNX else (node.domain, 1)
    try:
        return defs.get_schema(node.op_type, version, domain)
    except defs.SchemaError:
        return None


def _without_domains(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without imports of domains that no node is of any longer."""
    used = {node.domain for node in all_nodes(model)} | set(ONNX)
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model
