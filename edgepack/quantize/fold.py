"""The folded form: a Q/DQ graph read as operations on real tensors and on codes.

On the hub, quantization is spelled ``x -> QuantizeLinear -> DequantizeLinear -> op``. A backend with integer kernels wants the same
thing said the other way round: this operation reads codes with that encoding and writes codes with this one. ``fold`` is that reading.
An operation is integer when every real-valued input it takes is encoded and its output goes only into a QuantizeLinear, unless placement
marked the node as real; any other operation is real, and explicit QuantizeLinear / DequantizeLinear operations stand at the boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.hub.graph import attributes, axes_order, constant, dtype_name, static_shape
from edgepack.quantize.encoding import Encoding
from edgepack.quantize.placement import ACTIVATIONS, DYNAMIC, PLACEMENT, REAL, data_inputs

if TYPE_CHECKING:
    import onnx_ir as ir

Fuses = Callable[["ir.Node", "ir.Node"], str | None]


@dataclass(frozen=True)
class Operand:
    """One tensor an operation reads or writes.

    Attributes:
        name: the hub's value name; unique for each (tensor, held as codes or reals).
        shape: static.
        dtype: of the real-valued tensor, a numpy name; with ``encoding`` the stored type is ``encoding.dtype``.
        encoding: how codes stand for reals; None when the tensor is held as ``dtype``.
        constant: the numbers (codes when encoded) of a weight, None for an activation.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    encoding: Encoding | None = None
    constant: NDArray[Any] | None = field(default=None, compare=False)

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def real(self) -> NDArray[Any]:
        """The real numbers of a constant operand (shape ``shape``, dtype ``dtype``)."""
        if self.constant is None:
            raise ValueError(f"operand {self.name} is not constant")
        return self.constant if self.encoding is None else self.encoding.dequantize(self.constant, self.dtype)


@dataclass(frozen=True)
class Operation:
    """One ONNX node over operands.

    Attributes:
        op_type: ONNX operator; "QuantizeLinear" and "DequantizeLinear" only where codes and reals meet.
        name: the hub's node name.
        attributes: as Python data; a nested graph, which reads only its inputs, as a FoldedGraph.
        inputs: None for an omitted optional input.
        outputs: in ONNX order.
        activation: the activation folded into the output: "", or what the backend's fusion rule named ("Relu", "Relu6").
        dynamic: whether the scheme wants its activations as int8 codes whose range is found at run time (w8d8).
    """

    op_type: str
    name: str
    attributes: Mapping[str, Any]
    inputs: tuple[Operand | None, ...]
    outputs: tuple[Operand, ...]
    activation: str = ""
    dynamic: bool = False


@dataclass(frozen=True)
class FoldedGraph:
    """A whole model in folded form; ``operations`` are in execution order."""

    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    operations: tuple[Operation, ...]


def fold(model: ir.Model, fuses: Fuses = lambda producer, consumer: None) -> FoldedGraph:
    """Read a static-shape model of opset 21 in folded form.

    Args:
        model: canonical hub, with or without Q/DQ pairs.
        fuses: names the activation to fold when ``consumer`` may be merged into ``producer``, None otherwise. It is asked only for
            a consumer that is the single reader of the producer's single output.
    """
    return _Folder(model, fuses).graph()


def encoding_of(node: ir.Node) -> Encoding:
    """The encoding a QuantizeLinear or DequantizeLinear node applies (constant scale and zero point)."""
    scale = np.asarray(constant(node.inputs[1]), np.float32)
    held = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    zero_point = np.zeros(scale.shape, np.uint8) if held is None else held
    if held is None and node.op_type == "DequantizeLinear" and node.inputs[0] is not None:
        zero_point = np.zeros(scale.shape, dtype_name(node.inputs[0]))
    axis = None if scale.ndim == 0 else int(attributes(node).get("axis", 1))
    if axis is not None and axis < 0 and node.inputs[0] is not None:
        axis += len(static_shape(node.inputs[0]))
    return Encoding(scale, zero_point, str(zero_point.dtype), axis)


class _Folder:
    """Walks the graph once; holds which values are merged activations and which operands exist."""

    def __init__(self, model: ir.Model, fuses: Fuses) -> None:
        self._graph, self._fuses = model.graph, fuses
        self._merged = {id(producer): (consumer, name) for producer, consumer, name in _fusions(model.graph, fuses)}
        self._absorbed = {id(consumer) for consumer, _ in self._merged.values()}
        self._dequantized: set[str] = set()

    def graph(self) -> FoldedGraph:
        operations = [operation for node in self._graph for operation in self._operations(node)]
        outputs = tuple(_plain(value) for value in self._graph.outputs)
        return FoldedGraph(tuple(_plain(value) for value in self._graph.inputs), outputs, tuple(operations))

    def _operations(self, node: ir.Node) -> Iterator[Operation]:
        if id(node) in self._absorbed:
            return
        if node.op_type == "QuantizeLinear":
            yield from self._quantize(node)
        elif node.op_type == "DequantizeLinear":
            yield from self._dequantize_output(node)
        elif _is_transposed_weight(node):
            return
        else:
            yield from self._compute(node)

    def _quantize(self, node: ir.Node) -> Iterator[Operation]:
        """A QuantizeLinear is an operation of its own unless its producer already writes codes."""
        source = node.inputs[0]
        assert source is not None
        producer = source.producer()
        if producer is None or not self._is_integer(self._root(producer)):
            yield from self._as_real(source)
            yield Operation("QuantizeLinear", node.name or "", {}, (_plain(source),), (_codes(node),))

    def _dequantize_output(self, node: ir.Node) -> Iterator[Operation]:
        """A DequantizeLinear is an operation when a graph output reads it; other readers ask for reals themselves."""
        if node.outputs[0].is_graph_output() and constant(node.inputs[0]) is None:
            yield from self._as_real(node.outputs[0])

    def _compute(self, node: ir.Node) -> Iterator[Operation]:
        consumer, activation = self._merged.get(id(node), (node, ""))
        integer = self._is_integer(node)
        for value in node.inputs:
            if value is not None and not integer:
                yield from self._as_real(value)
        inputs = tuple(None if value is None else self._operand(value, integer) for value in node.inputs)
        outputs = tuple(_codes(_quantizer(value)) if integer else _plain(value) for value in consumer.outputs)
        dynamic = node.metadata_props.get(ACTIVATIONS) == DYNAMIC
        yield Operation(node.op_type, node.name or "", self._attributes(node), inputs, outputs, activation, dynamic)

    def _attributes(self, node: ir.Node) -> dict[str, Any]:
        return {name: fold(_as_model(held), self._fuses) if _is_nested(node, name) else held for name, held in attributes(node).items()}

    def _as_real(self, value: ir.Value) -> Iterator[Operation]:
        """The operation that turns codes into reals for a real-valued reader, once for each tensor."""
        node = value.producer()
        if node is None or node.op_type != "DequantizeLinear" or value.name in self._dequantized:
            return
        if constant(node.inputs[0]) is not None:
            return
        self._dequantized.add(value.name or "")
        yield Operation("DequantizeLinear", node.name or "", {}, (_codes(node),), (_plain(value),))

    def _operand(self, value: ir.Value, integer: bool) -> Operand:
        node = value.producer()
        if node is not None and _is_transposed_weight(node):
            return _transposed(node, self._operand(_source(node), integer))
        if node is None or node.op_type != "DequantizeLinear":
            return _plain(value)
        if integer or constant(node.inputs[0]) is not None:
            return replace(_codes(node), dtype=dtype_name(value))
        return _plain(value)

    def _is_integer(self, node: ir.Node) -> bool:
        """Every real-valued input is encoded, every output is read by QuantizeLinear alone, and placement did not leave the node real."""
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or any(_is_nested(node, name) for name in node.attributes):
            return False
        consumer, _ = self._merged.get(id(node), (node, ""))
        if node.metadata_props.get(PLACEMENT) == REAL:
            return False
        reals = data_inputs(node)
        activations = [value for value in reals if constant(value) is None]
        return bool(activations) and all(map(_is_dequantized, reals)) and all(map(_is_only_quantized, consumer.outputs))

    def _root(self, node: ir.Node) -> ir.Node:
        """The producer an absorbed activation was merged into, else the node itself."""
        if id(node) not in self._absorbed:
            return node
        source = node.inputs[0]
        assert source is not None
        producer = source.producer()
        assert producer is not None
        return producer


def _fusions(graph: ir.Graph, fuses: Fuses) -> Iterator[tuple[ir.Node, ir.Node, str]]:
    taken: set[int] = set()
    for node in graph:
        if len(node.outputs) != 1 or node.outputs[0].is_graph_output() or id(node) in taken:
            continue
        readers = {id(use.node): use.node for use in node.outputs[0].uses()}
        consumer = next(iter(readers.values())) if len(readers) == 1 else None
        name = fuses(node, consumer) if consumer is not None and consumer.inputs[0] is node.outputs[0] else None
        if consumer is not None and name:
            taken.add(id(consumer))
            yield node, consumer, name


def _is_nested(node: ir.Node, attribute: str) -> bool:
    import onnx_ir as ir

    return node.attributes[attribute].type == ir.AttributeType.GRAPH


def _as_model(graph: ir.Graph) -> ir.Model:
    import onnx_ir as ir

    return ir.Model(graph, ir_version=10)


def _plain(value: ir.Value) -> Operand:
    return Operand(value.name or "", static_shape(value), dtype_name(value), None, constant(value))


def _codes(node: ir.Node) -> Operand:
    """The encoded tensor on the integer side of a QuantizeLinear or DequantizeLinear."""
    value = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    real = node.inputs[0] if node.op_type == "QuantizeLinear" else node.outputs[0]
    assert value is not None and real is not None
    return Operand(value.name or "", static_shape(value), dtype_name(real), encoding_of(node), constant(value))


def _is_transposed_weight(node: ir.Node) -> bool:
    """Whether a Transpose hands a stored weight to matrix products alone: to them it is as constant as the weight itself.

    So a table that is the last layer's weight too (tied weights) is stored once, and that layer is a product with a constant.
    """
    if node.op_type != "Transpose" or node.outputs[0].is_graph_output():
        return False
    source, readers = _source(node), [use.node.op_type for use in node.outputs[0].uses()]
    producer = source.producer()
    held = producer.inputs[0] if producer is not None and producer.op_type == "DequantizeLinear" else source
    return dtype_name(source) == "float32" and constant(held) is not None and bool(readers) and set(readers) <= {"MatMul", "Gemm"}


def _source(node: ir.Node) -> ir.Value:
    assert node.inputs[0] is not None
    return node.inputs[0]


def _transposed(node: ir.Node, weight: Operand) -> Operand:
    """What a Transpose makes of a constant, as a view of the same numbers."""
    assert weight.constant is not None
    order, encoding = axes_order(node), weight.encoding
    if encoding is not None and encoding.axis is not None:
        encoding = replace(encoding, axis=order.index(encoding.axis))
    moved = weight.constant.transpose(order)
    return Operand(node.outputs[0].name or "", moved.shape, weight.dtype, encoding, moved)


def _is_dequantized(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "DequantizeLinear"


def _is_only_quantized(value: ir.Value) -> bool:
    """Whether one QuantizeLinear, and nothing else, reads a value: codes of two encodings come from reals."""
    uses = list(value.uses())
    return len(uses) == 1 and not value.is_graph_output() and uses[0].node.op_type == "QuantizeLinear"


def _quantizer(value: ir.Value) -> ir.Node:
    """The one QuantizeLinear that reads an integer operation's output; the hub writes exactly one for each tensor."""
    nodes = [use.node for use in value.uses()]
    if len(nodes) != 1:
        raise ValueError(f"value '{value.name}' is quantized {len(nodes)} times")
    return nodes[0]
