"""The quantized hub in the spelling ONNX Runtime's optimizer makes the most of; what is computed stays the same.

Measured with onnxruntime 1.32, one thread, x86 with VNNI, six layers each (``tests/backends/ort/test_lower.py`` checks the graphs it runs):

    weights only, 3x3 convolutions 64 -> 64   fp32 3.5 ms   DequantizeLinear 4.8 ms   Cast and Mul 3.4 ms
    dynamic, matrices 1024 x 1024             fp32 1.2 ms   MatMulInteger 0.19 ms
    dynamic, 3x3 convolutions                 fp32 3.5 ms   ConvInteger 4.0 ms (1x1: 0.40 and 0.54 ms)

A DequantizeLinear on weights is never folded when a model is loaded: it runs in every inference and hides the weights from the layout
optimizer; beside a MatMul it even becomes a MatMulNBits that rounds activations to int8, which weight-only schemes do not say. Cast and Mul
give the same numbers (code * scale, one float32 rounding) and are folded once. Convolutions under w8d8 keep real activations.

A table of 30,522 rows of 384 numbers, 128 of them gathered, microseconds and megabytes of memory that loading takes:

    fp32 6 us 47 MB   DequantizeLinear, Gather 1,560 us   Cast, Mul, Gather 7 us 47 MB   rows of codes times their scales 13 us 12 MB
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgepack.hub.graph import attribute, constant
from edgepack.hub.passes import drop_unused
from edgepack.quantize.encoding import Encoding
from edgepack.quantize.fold import encoding_of
from edgepack.quantize.insert import computed, initializer
from edgepack.quantize.placement import ACTIVATIONS, DYNAMIC, activation_range
from edgepack.quantize.scheme import Scheme
from edgepack.quantize.weights import weight_codes

if TYPE_CHECKING:
    import onnx_ir as ir

# Producers that have an integer kernel in onnxruntime once their output is read by QuantizeLinear alone.
_INTEGER = frozenset({"Conv", "Gemm", "MatMul", "Add", "Sub", "Mul"})
# Weighted operators without an integer kernel: their weights are better folded when the model is loaded.
_FLOAT = frozenset({"ConvTranspose"})


def lower(model: ir.Model, scheme: Scheme) -> bool:
    """Rewrite a quantized hub in place; whether anything changed."""
    graph = model.graph
    if scheme.is_static:
        changed = [rewrite(graph, node) for rewrite in (_gather_codes, _clip_codes) for node in list(graph)]
        changed += [_expand_weights(graph, node, _FLOAT) for node in list(graph)]
    else:
        rewrites = (_gather_codes, _multiply_codes, _expand_weights)
        changed = [rewrite(graph, node) for rewrite in rewrites for node in list(graph)]
    if any(changed):
        drop_unused(model)
    return any(changed)


def _gather_codes(graph: ir.Graph, node: ir.Node) -> bool:
    """Rows of a table in codes: gather codes and their scales and multiply, so that the table is never expanded."""
    import onnx_ir as ir

    reader = node.inputs[0].producer() if node.op_type == "Gather" and node.inputs[0] is not None else None
    if reader is None or reader.op_type != "DequantizeLinear" or not _is_scaled_by_row(reader) or attribute(node, "axis", 0) not in (0, -2):
        return False
    codes, indices, encoding = reader.inputs[0], node.inputs[1], encoding_of(reader)
    result, name = node.outputs[0], node.name or ""
    assert codes is not None and indices is not None
    scales = initializer(graph, f"{codes.name}/scale_of_row", encoding.scale.reshape(-1, 1))
    rows = computed("Gather", f"{name}/codes", [codes, indices], result, encoding.dtype)
    factors = computed("Gather", f"{name}/scales", [scales, indices], result, "float32")
    factors.shape = ir.Shape([*(result.shape or ())[:-1], 1])
    reals = computed("Cast", f"{name}/reals", [rows], result, "float32", to=int(ir.DataType.FLOAT))
    product = computed("Mul", f"{name}/product", [reals, factors], result, "float32")
    graph.insert_before(node, [value.producer() for value in (rows, factors, reals, product)])  # type: ignore[misc]
    _take_over(graph, node, product)
    return True


def _is_scaled_by_row(reader: ir.Node) -> bool:
    """Whether a DequantizeLinear reads a constant matrix with a scale for each row and zero points of 0."""
    codes, encoding = constant(reader.inputs[0]), encoding_of(reader)
    return codes is not None and codes.ndim == 2 and encoding.axis == 0 and not encoding.zero_point.any()


def _multiply_codes(graph: ir.Graph, node: ir.Node) -> bool:
    """A product marked dynamic: DynamicQuantizeLinear, MatMulInteger, and its int32 sums times both scales.

    onnxruntime reads these as one DynamicQuantizeMatMul, bias included. Sources: ONNX DynamicQuantizeLinear-11, MatMulInteger-10.
    """
    import onnx_ir as ir

    if node.metadata_props.get(ACTIVATIONS) != DYNAMIC or node.op_type == "Conv":
        return False
    name, x, result = node.name or "", node.inputs[0], node.outputs[0]
    assert x is not None
    weights, encoding = _columns(graph, node)
    ranged = ir.node("DynamicQuantizeLinear", [x], num_outputs=3, name=f"DynamicQuantizeLinear_{name}")
    for value, part in zip(ranged.outputs, ("codes", "scale", "zero_point"), strict=True):
        value.name = f"{name}/x_{part}"
    weight_zero = initializer(graph, f"{name}/columns_zero_point", encoding.zero_point)
    sums = computed("MatMulInteger", f"{name}/sums", [ranged.outputs[0], weights, ranged.outputs[2], weight_zero], result, "int32")
    reals = computed("Cast", f"{name}/sums_real", [sums], result, "float32", to=int(ir.DataType.FLOAT))
    columns_scale = initializer(graph, f"{name}/columns_scale", encoding.scale)
    scale = computed("Mul", f"{name}/scale", [ranged.outputs[1], columns_scale], columns_scale, "float32")
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    product = computed("Mul", f"{name}/product", [reals, scale], result, "float32")
    last = product if bias is None else computed("Add", f"{name}/sum", [product, bias], result, "float32")
    made = [ranged, *(value.producer() for value in dict.fromkeys((sums, reals, scale, product, last)))]
    graph.insert_before(node, made)  # type: ignore[arg-type]
    _take_over(graph, node, last)
    return True


def _columns(graph: ir.Graph, node: ir.Node) -> tuple[ir.Value, Encoding]:
    """Weight codes as (inputs, outputs) with the encoding along the columns; a Gemm, or whoever reads a Transpose, may hold them swapped.

    Codes that a Gather reads too (tied weights) stay as they are stored: onnxruntime transposes them when the model is loaded.
    """
    import onnx_ir as ir

    name, weight = node.name or "", node.inputs[1]
    reader = None if weight is None else weight_codes(weight)
    assert weight is not None and reader is not None and reader.inputs[0] is not None
    held, stored = encoding_of(reader), reader.inputs[0]
    codes = constant(stored)
    assert codes is not None
    encoding = Encoding(held.scale, held.zero_point, held.dtype, 1)
    is_swapped = bool(attribute(node, "transB", 0)) != (weight.producer() is not reader)
    if not is_swapped or all(use.node is reader for use in stored.uses()):
        return initializer(graph, f"{name}/columns", np.ascontiguousarray(codes.T) if is_swapped else codes), encoding
    columns = computed("Transpose", f"{name}/columns", [stored], stored, held.dtype, perm=[1, 0])
    columns.shape = ir.Shape(codes.T.shape)
    graph.insert_before(node, columns.producer())  # type: ignore[arg-type]
    return columns, encoding


def _take_over(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Let ``value`` stand for the node's output, name included, and remove the node."""
    import onnx_ir.convenience as convenience

    old = node.outputs[0]
    value.type, value.shape = old.type, old.shape
    name = old.name
    old.name = f"{name}/replaced"
    value.name = name
    convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _expand_weights(graph: ir.Graph, node: ir.Node, readers: frozenset[str] | None = None) -> bool:
    """Read codes of weights by Cast and Mul instead of DequantizeLinear: zero points are 0, so code * scale is all there is."""
    import onnx_ir as ir

    codes = node.inputs[0] if node.op_type == "DequantizeLinear" else None
    held = constant(codes)
    if codes is None or held is None or not _is_read_by(node, readers):
        return False
    encoding = encoding_of(node)
    if encoding.zero_point.any():
        return False
    name = node.outputs[0].name or ""
    shape = [1] * held.ndim
    if encoding.axis is not None:
        shape[encoding.axis] = -1
    reals = computed("Cast", f"{name}/codes_real", [codes], codes, "float32", to=int(ir.DataType.FLOAT))
    scale = initializer(graph, f"{name}/scale", encoding.scale.reshape(shape if encoding.axis is not None else ()))
    product = computed("Mul", f"{name}/product", [reals, scale], codes, "float32")
    graph.insert_before(node, [reals.producer(), product.producer()])  # type: ignore[list-item]
    _take_over(graph, node, product)
    return True


def _is_read_by(node: ir.Node, readers: frozenset[str] | None) -> bool:
    uses = [use.node.op_type for use in node.outputs[0].uses()]
    return bool(uses) and (readers is None or all(operator in readers for operator in uses))


def _clip_codes(graph: ir.Graph, node: ir.Node) -> bool:
    """producer -> Relu or Clip -> QuantizeLinear becomes producer -> QuantizeLinear -> Clip on codes, where codes reach beyond the bounds.

    onnxruntime drops an activation whose bounds are those of the codes, and runs the producer in float when it cannot. Rounding is
    monotone: clipping codes at the codes of the bounds gives the same codes.
    """
    bounds = activation_range(node)
    if bounds is None or node.outputs[0].is_graph_output():
        return False
    x, readers = node.inputs[0], {id(use.node): use.node for use in node.outputs[0].uses()}
    producer = x.producer() if x is not None else None
    quantizer = next(iter(readers.values())) if len(readers) == 1 else None
    if x is None or producer is None or producer.op_type not in _INTEGER or x.is_graph_output() or len(list(x.uses())) != 1:
        return False
    if quantizer is None or quantizer.op_type != "QuantizeLinear":
        return False
    encoding = encoding_of(quantizer)
    low, high = (encoding.quantize(np.asarray(bound, np.float64)) for bound in bounds)
    if (int(low), int(high)) == encoding.limits:
        return False
    name = quantizer.outputs[0].name or ""
    limits = [initializer(graph, f"{name}/{side}", np.asarray(code)) for side, code in (("low", low), ("high", high))]
    quantizer.replace_input_with(0, x)
    codes = quantizer.outputs[0]
    clipped = computed("Clip", f"{name}/clipped", [codes, *limits], codes, encoding.dtype)
    for use in list(codes.uses()):
        if use.node is not clipped.producer():
            use.node.replace_input_with(use.idx, clipped)
    graph.insert_after(quantizer, clipped.producer())  # type: ignore[arg-type]
    graph.remove(node, safe=True)
    return True
