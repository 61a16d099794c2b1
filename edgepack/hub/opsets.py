"""A model brought to the hub's opset, from older ones and from newer ones.

Source: the operator schemas in ``onnx.defs``. Of the operators that both opset 21 and a newer one up to 28 have, the later revision adds
element types, attributes that say by default what there was before, or words; what it changes in meaning is told in ``_CHANGED``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgepack.errors import one_line
from edgepack.hub import functions
from edgepack.hub.graph import OPSET, HubError

if TYPE_CHECKING:
    import onnx

# onnxruntime and onnx's converter know nothing older.
_OLDEST = 7
# onnxruntime and the checker read the files of opset 21 in this format.
_IR_VERSION = 10


def at_opset(model: onnx.ModelProto, opset: int = OPSET) -> onnx.ModelProto:
    """The model at another opset, unchanged when it is there already.

    Operators that came after it are written as the functions ONNX defines them as. Then the number alone is changed where every operator
    means the same at both, and else onnx's converter is asked.

    Raises:
        HubError: an operator has no function body and ONNX no adapter for it.
    """
    import onnx

    held, newest = functions.opset_of(model), onnx.defs.onnx_opset_version()
    if held == opset:
        return model
    if not _OLDEST <= held <= newest:
        raise HubError(f"the model has ONNX opset {held}", f"export it with an opset from {_OLDEST} to {newest}")
    plain = functions.expanded(model, functions.is_newer_than_hub) if held > opset else model
    renumbered = _renumbered(plain, held, opset)
    if renumbered is None and held > opset and any(map(functions.is_shift, functions.all_nodes(plain))):
        renumbered = _renumbered(functions.expanded(plain, functions.is_shift), held, opset)
    return renumbered or _converted(plain, held, opset)


def _converted(model: onnx.ModelProto, held: int, opset: int) -> onnx.ModelProto:
    import onnx
    from onnx import version_converter

    unknown = next((node for node in functions.all_nodes(model) if _is_unknown(node, opset)), None)
    if unknown is not None and held > opset:
        raise HubError(
            f"{unknown.op_type} '{unknown.name}' came after opset {opset}, and ONNX says it with no other operators",
            "write that operator of the student in another way",
        )
    try:
        converted = version_converter.convert_version(model, opset)
        onnx.checker.check_model(converted)
    except Exception as error:
        raise HubError(
            f"opset {held} cannot be converted to {opset} ({one_line(error)})", f"export the student with opset {opset}"
        ) from error
    return converted


def _is_unknown(node: onnx.NodeProto, opset: int) -> bool:
    return node.domain in functions.ONNX and functions.schema_of(node, opset) is None


def _renumbered(model: onnx.ModelProto, held: int, opset: int) -> onnx.ModelProto | None:
    """The same nodes under another number, None where one of them means something else there or is not allowed."""
    import onnx

    if not all(_keeps_meaning(node, held, opset) for node in functions.all_nodes(model)):
        return None
    renumbered = onnx.ModelProto()
    renumbered.CopyFrom(model)
    for node in functions.all_nodes(renumbered):
        _drop_new_defaults(node, held, opset)
    for entry in _imports(renumbered):
        entry.version = opset if entry.domain in functions.ONNX else entry.version
    renumbered.ir_version = min(model.ir_version, _IR_VERSION) if held > opset else max(model.ir_version, _IR_VERSION)
    try:
        onnx.checker.check_model(renumbered, full_check=True)
    except Exception:  # a type or an attribute that the other opset does not allow: the converter may have an adapter
        return None
    return renumbered


def _imports(model: onnx.ModelProto) -> Iterator[onnx.OperatorSetIdProto]:
    yield from model.opset_import
    for function in model.functions:
        yield from function.opset_import


def _keeps_meaning(node: onnx.NodeProto, held: int, opset: int) -> bool:
    before, after = functions.schema_of(node, held), functions.schema_of(node, opset)
    if node.domain not in functions.ONNX:
        return True
    if before is None or after is None:
        return False
    return bool(before.since_version == after.since_version or held > opset)


def _drop_new_defaults(node: onnx.NodeProto, held: int, opset: int) -> None:
    """Attributes that a later revision brought, where they say what there was before."""
    import onnx

    before, after = functions.schema_of(node, held), functions.schema_of(node, opset)
    if before is None or after is None or held < opset:
        return
    for attribute in list(node.attribute):
        if attribute.name in after.attributes or attribute.name not in before.attributes:
            continue
        default = before.attributes[attribute.name].default_value
        if default.type and onnx.helper.get_attribute_value(default) == onnx.helper.get_attribute_value(attribute):
            node.attribute.remove(attribute)
