"""The hub as Core ML reads it: one operation a node, Q/DQ nodes kept, dequantized constants seen as encoded operands.

Unlike ``quantize.fold``, nothing is turned into integer arithmetic: Core ML carries activations as ``quantize`` / ``dequantize`` pairs
and weights as codes that are dequantized when the model is loaded.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepack.backends.control import BLOCKS, with_blocks
from edgepack.backends.coreml.spellings import OTHERS
from edgepack.backends.spelling import respell
from edgepack.backends.table import BackendError
from edgepack.hub.graph import attributes, constant, dtype_name, static_shape
from edgepack.hub.passes import convolutions, geometry, indices, sampling
from edgepack.quantize.encoding import Encoding
from edgepack.quantize.fold import FoldedGraph, Operand, Operation, encoding_of

if TYPE_CHECKING:
    import onnx_ir as ir

_ONNX_DOMAINS = ("", "ai.onnx")
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
# Reshape, Transpose, Reshape through more dimensions than Core ML has, as one operation with the attributes "sizes" and "perm".
REARRANGE = "edgepack::Rearrange"
# What no MIL operation says, spelled with what they say.
_SPELLINGS = ({**OTHERS, **indices.CLASSES, **geometry.SPELLERS, **sampling.BEYOND_LINEAR, **convolutions.COMPUTED},)
# An optional output that nothing reads; an operation's real outputs have names.
_UNREAD = Operand("", (), "float32")
# Core ML's limit for every tensor (coremltools: builder.py and the ML Program validator).
MAX_RANK = 5


@dataclass(frozen=True)
class Hub:
    """A model in execution order. ``inputs`` leave out initializers."""

    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    operations: tuple[Operation, ...]


def read_hub(model: Path) -> Hub:
    """Read a static-shape ONNX model of opset 21.

    Raises:
        HubError: a value has no static shape or no type.
        BackendError: the file is no ONNX model.
    """
    import onnx_ir
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    try:
        loaded = onnx_ir.load(model)
    except Exception as error:
        raise BackendError(f"{model} cannot be read as an ONNX model ({error})", "export the hub again") from error
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(loaded)
    respell(loaded, _SPELLINGS)
    with_blocks(loaded, _SPELLINGS)
    graph = loaded.graph
    inputs = tuple(_plain(value) for value in graph.inputs if value.const_value is None)
    outputs = tuple(map(_plain, graph.outputs))
    return Hub(inputs, outputs, _narrowed(tuple(map(_operation, graph)), {held.name for held in outputs}))


def _narrowed(operations: tuple[Operation, ...], results: set[str]) -> tuple[Operation, ...]:
    """Window attention, pixel shuffles and their like pass through six dimensions; what only passes through is joined."""
    reads = Counter(operand.name for operation in operations for operand in operation.inputs if operand is not None)
    makers = {output.name: operation for operation in operations for output in operation.outputs}

    def inner(operation: Operation, kind: str) -> Operation | None:
        """What makes the wide input of an operation that is its only reader."""
        source = operation.inputs[0] if operation.inputs else None
        maker = None if source is None else makers.get(source.name)
        if source is None or maker is None or maker.op_type != kind or source.rank <= MAX_RANK:
            return None
        return None if reads[source.name] > 1 or source.name in results else maker

    joined: dict[int, Operation] = {}
    absorbed: set[int] = set()
    for last in operations:
        middle = inner(last, "Transpose") if last.op_type == "Reshape" else None
        first = None if middle is None else inner(middle, "Reshape")
        if middle is None or first is None:
            continue
        sizes = first.outputs[0].shape
        shuffle = {"sizes": sizes, "perm": middle.attributes.get("perm", list(range(len(sizes)))[::-1])}
        joined[id(last)] = Operation(REARRANGE, middle.name, shuffle, first.inputs[:1], last.outputs)
        absorbed |= {id(first), id(middle)}
    return tuple(joined.get(id(operation), operation) for operation in operations if id(operation) not in absorbed)


def _operation(node: ir.Node) -> Operation:
    domain = "" if node.domain in _ONNX_DOMAINS or node.op_type in BLOCKS else f"{node.domain}::"
    if not domain and node.op_type in _QUANTIZERS and _encoding(node) is not None:
        return _conversion(node)
    inputs = tuple(None if value is None else _operand(value) for value in node.inputs)
    outputs = tuple(_plain(value) if value.name else _UNREAD for value in node.outputs)
    return Operation(domain + node.op_type, node.name or "", _attributes(node), inputs, outputs)


def _attributes(node: ir.Node) -> dict[str, Any]:
    """Nested graphs as operations, the rest as Python data."""
    import onnx_ir

    return {name: _graph(held) if isinstance(held, onnx_ir.Graph) else held for name, held in attributes(node).items()}


def _graph(graph: ir.Graph) -> FoldedGraph:
    outputs = tuple(map(_plain, graph.outputs))
    operations = _narrowed(tuple(map(_operation, graph)), {held.name for held in outputs})
    return FoldedGraph(tuple(map(_plain, graph.inputs)), outputs, operations)


def _conversion(node: ir.Node) -> Operation:
    """A QuantizeLinear or DequantizeLinear between reals and codes; scale and zero point are in the codes' encoding."""
    codes = _codes(node)
    source, result = node.inputs[0], node.outputs[0]
    assert source is not None
    ends = (_plain(source), codes) if node.op_type == "QuantizeLinear" else (codes, _plain(result))
    return Operation(node.op_type, node.name or "", attributes(node), ends[:1], ends[1:])


def _operand(value: ir.Value) -> Operand:
    """A value as an operation reads it; a dequantized constant is read as its codes."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear" or constant(node.inputs[0]) is None or _encoding(node) is None:
        return _plain(value)
    held = _codes(node)
    return Operand(value.name or "", held.shape, dtype_name(value), held.encoding, held.constant)


def _codes(node: ir.Node) -> Operand:
    value = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    real = node.inputs[0] if node.op_type == "QuantizeLinear" else node.outputs[0]
    assert value is not None and real is not None
    return Operand(value.name or "", static_shape(value), dtype_name(real), _encoding(node), constant(value))


def _encoding(node: ir.Node) -> Encoding | None:
    """None when scale or zero point is computed at run time."""
    parameters = [value for value in node.inputs[1:] if value is not None]
    return None if any(constant(value) is None for value in parameters) else encoding_of(node)


def _plain(value: ir.Value) -> Operand:
    return Operand(value.name or "", static_shape(value), dtype_name(value), None, constant(value))
