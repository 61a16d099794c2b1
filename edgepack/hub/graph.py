"""Reading an onnx_ir graph: constants, attributes, static shapes. One place, so that every room asks the same way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.errors import InputError

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir


# The hub's opset: the newest one that onnx, onnxruntime and torch's exporter all carry in full (DESIGN.md).
OPSET = 21


class HubError(InputError):
    """A model the hub cannot hold; the message names the node."""


def label(node: ir.Node) -> str:
    """How messages name a node: operator and node name."""
    return f"{node.op_type} '{node.name}'"


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The numbers of an initializer or Constant output as a numpy array, None when the value is computed at run time."""
    if value is None or value.const_value is None:
        return None
    return np.asarray(value.const_value.numpy())


def axes_order(node: ir.Node) -> tuple[int, ...]:
    """The ``perm`` of a Transpose: which axis of its input each axis of its output is; all reversed when it is absent."""
    value = node.inputs[0]
    rank = len(value.shape or ()) if value is not None else 0
    return tuple(attribute(node, "perm") or range(rank)[::-1])


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """An attribute as Python data (int, float, str, list), ``default`` when absent."""
    held = node.attributes.get(name)
    if held is None:
        return default
    value = held.value
    return list(value) if isinstance(value, tuple) else value


def attributes(node: ir.Node) -> dict[str, Any]:
    """All attributes of a node as Python data."""
    return {name: attribute(node, name) for name in node.attributes}


def static_shape(value: ir.Value) -> tuple[int, ...]:
    """The shape of a value whose every dimension is known.

    Raises:
        HubError: a dimension is symbolic or unknown.
    """
    shape = value.shape
    sizes = tuple(size for size in shape or () if isinstance(size, int))
    if shape is None or len(sizes) != len(shape):
        raise HubError(
            f"value '{value.name}' has no static shape ({shape})", "declare fixed sizes in the student, or pin the symbolic dimensions"
        )
    return sizes


def dtype_name(value: ir.Value) -> str:
    """The numpy name of a value's type ("float32", "int64", "bool")."""
    if value.dtype is None:
        raise HubError(f"value '{value.name}' has no type", "run the canonical form first")
    return str(np.dtype(value.dtype.numpy()))


def reads(node: onnx.NodeProto) -> list[str]:
    """Names a node reads, those that its subgraphs take from outside included."""
    return [name for name in node.input if name] + [name for held in node.attribute if held.HasField("g") for name in _captured(held.g)]


def _captured(graph: onnx.GraphProto) -> Iterator[str]:
    own = {held.name for held in (*graph.input, *graph.initializer)} | {name for node in graph.node for name in node.output}
    own_or_empty = own | {""}
    yield from (name for node in graph.node for name in reads(node) if name not in own_or_empty)
    yield from (value.name for value in graph.output if value.name not in own_or_empty)
