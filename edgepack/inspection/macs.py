"""Multiply-accumulates of an ONNX graph, product by product. Pure: a model whose tensors have shapes goes in, numbers come out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

Shapes = Mapping[str, tuple[int, ...] | None]


@dataclass(frozen=True)
class Product:
    """A matrix product or a convolution.

    Attributes:
        name: operator and node, as messages name it.
        macs: multiply-accumulates of the operator's definition, a symbolic size counted as 1; None where a rank is not known.
        window: positions of a convolution's kernel (9 for 3 x 3), 1 for a matrix product.
        weight: the tensor it takes as weights.
    """

    name: str
    macs: int | None
    window: int
    weight: str


# Where these operators keep their weights.
_WEIGHTS = {
    "Conv": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "MatMul": 1,
    "MatMulNBits": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "ConvInteger": 1,
    "MatMulInteger": 1,
    "FusedConv": 1,
    "FusedMatMul": 1,
}


def products(model: onnx.ModelProto) -> Iterator[Product]:
    """Those of the main graph, in its order."""
    shapes = _shapes(model.graph)
    for node in model.graph.node:
        if node.op_type in _RECURRENT:
            yield from _steps(node, shapes)
        place = _WEIGHTS.get(node.op_type)
        if place is not None and len(node.input) > place and node.output:
            yield _product(node, node.input[place], shapes)


# Every step multiplies its input with the second input's weights and the state with the third's, in each direction.
_RECURRENT = ("LSTM", "GRU", "RNN")


def _steps(node: onnx.NodeProto, shapes: Shapes) -> Iterator[Product]:
    data = shapes.get(node.input[0])
    for weight in node.input[1:3]:
        kernel = shapes.get(weight)
        macs = None if data is None or kernel is None else math.prod(data[:2]) * math.prod(kernel)
        yield Product(f"{node.op_type} '{node.name or node.input[0]}'", macs, 1, weight)


def stored_tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers, and the tensors of Constant nodes under the names of their outputs."""
    yield from graph.initializer
    yield from _constant_nodes(graph)


def _product(node: onnx.NodeProto, weight: str, shapes: Shapes) -> Product:
    name = f"{node.op_type} '{node.name or node.output[0]}'"
    data, kernel, out = (shapes.get(each) for each in (node.input[0], weight, node.output[0]))
    if data is None or kernel is None or out is None:
        return Product(name, None, 1, weight)
    window = math.prod(kernel[2:]) if "Conv" in node.op_type else 1
    return Product(name, _macs(node, data, kernel, out), window, weight)


def _macs(node: onnx.NodeProto, data: tuple[int, ...], kernel: tuple[int, ...], out: tuple[int, ...]) -> int:
    """Output elements times what is summed in each; a transposed convolution scatters each input element instead."""
    given = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "ConvTranspose":
        return math.prod(data) * math.prod(kernel[1:])
    if "Conv" in node.op_type:
        return math.prod(out) * math.prod(kernel[1:])
    if node.op_type == "Gemm":
        return math.prod(out) * data[0 if "transA" in given and given["transA"].i else -1]
    if node.op_type == "MatMulNBits":
        return math.prod(out) * int(given["K"].i)
    return math.prod(out) * (data[-1] if data else 1)


def _shapes(graph: onnx.GraphProto) -> Shapes:
    typed = (*graph.value_info, *graph.input, *graph.output)
    return {value.name: _sizes(value) for value in typed} | {held.name: tuple(held.dims) for held in stored_tensors_of(graph)}


def _sizes(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    """Sizes with 1 for a symbolic one; None when even the rank is unknown."""
    held = value.type.tensor_type
    if not held.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else 1 for dim in held.shape.dim)


def _constant_nodes(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    import onnx

    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                held = onnx.TensorProto()
                held.CopyFrom(attribute.t)
                held.name = node.output[0]
                yield held
