"""Placement: which nodes of a static scheme compute on codes and which stay real.

A node goes to codes when every selected target has an integer kernel for it, or moves codes without computing. Operators that no delegate
takes in int8 (Softmax, and anything after the last integer node that only they feed) stay real at the graph's edge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgepack.hub.graph import attribute, constant, dtype_name

if TYPE_CHECKING:
    import onnx_ir as ir

# Weighted operators: int8 weights per channel, int32 bias. The number is the input that holds the weights.
LINEAR = {"Conv": 1, "Gemm": 1, "MatMul": 1}
# Operators whose output holds exactly the input's codes: one encoding for both.
MOVES = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Concat", "Identity", "Expand"}
)
# Average pooling computes, but TFLite's kernel is silently wrong with unequal encodings (FACTS.md).
SAME_ENCODING = MOVES | {"AveragePool", "Pad"}
# Integer kernels everywhere, with encodings of their own.
FREE = frozenset({"Add", "Sub", "Mul", "ReduceMean", "GlobalAveragePool", "Relu", "Clip", "LeakyRelu"})
# Where a function has a pole or an unbounded slope at zero: operator and input.
_POLES = {"Div": 1, "Reciprocal": 0, "Sqrt": 0, "Log": 0}
# Output encodings that TFLite's kernels prescribe.
FIXED_OUTPUT = frozenset({"Sigmoid", "Tanh"})

# Node metadata in a quantized hub: a node that must stay real although codes surround it.
PLACEMENT, REAL = "edgepack.placement", "real"
# Inputs that carry the tensor, for operators whose further real-valued inputs are parameters (bounds, a fill value).
DATA_INPUTS = {"Clip": 1, "Pad": 1}

QUANTIZED = frozenset(LINEAR) | SAME_ENCODING | FREE | FIXED_OUTPUT


def integer_nodes(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that compute on codes, in graph order.

    A linear node whose weights are computed stays real, so does a node without a real-valued activation input, and so does a
    code-moving node that no integer node feeds (nothing would be gained but a rounding). So do islands of elementwise arithmetic amid
    real nodes, and what is divided by, rooted or logged next: one code next to zero is all the difference there (the epsilon of a
    normalization is less than one code).
    """
    chosen: list[ir.Node] = []
    held: set[int] = set()
    for node in graph:
        if _can(node) and _worth(node, held) and not _feeds_pole(node):
            chosen.append(node)
            held.add(id(node))
    return _without_islands(chosen)


def _feeds_pole(node: ir.Node) -> bool:
    """Whether the result of an elementwise node is read where a function grows without bound near zero."""
    return node.op_type in FREE and any(_POLES.get(use.node.op_type) == use.idx for value in node.outputs for use in value.uses())


def _without_islands(chosen: list[ir.Node]) -> list[ir.Node]:
    """The nodes that a chain of chosen nodes connects with a weighted one or with an input of the graph."""
    by_id = {id(node): node for node in chosen}
    reached: set[int] = set()
    waiting = [node for node in chosen if node.op_type in LINEAR or any(value.producer() is None for value in activation_inputs(node))]
    while waiting:
        node = waiting.pop()
        if id(node) not in reached and id(node) in by_id:
            reached.add(id(node))
            waiting += _neighbours(node)
    return [node for node in chosen if id(node) in reached]


def _neighbours(node: ir.Node) -> list[ir.Node]:
    """Who writes what the node reads as activations, and who reads what it writes."""
    before = [value.producer() for value in activation_inputs(node)]
    after = [use.node for value in node.outputs for use in value.uses()]
    return [other for other in (*before, *after) if other is not None]


def _can(node: ir.Node) -> bool:
    if node.op_type not in QUANTIZED or not activation_inputs(node):
        return False
    if node.op_type == "Pad":
        return attribute(node, "mode", "constant") == "constant" and _fill_is_zero(node)
    if node.op_type not in LINEAR:
        return all(dtype_name(value) == "float32" for value in node.outputs)
    others = [value for value in node.inputs[1:] if value is not None]
    weight = constant(node.inputs[1])
    return weight is not None and all(constant(value) is not None for value in others) and (node.op_type != "MatMul" or weight.ndim == 2)


def _worth(node: ir.Node, held: set[int]) -> bool:
    """Computing nodes always; movers only when codes arrive."""
    if node.op_type not in SAME_ENCODING:
        return True
    producers = [value.producer() for value in activation_inputs(node)]
    return all(producer is None or id(producer) in held for producer in producers)


def _fill_is_zero(node: ir.Node) -> bool:
    """Whether a Pad writes zeros, the one real number that every encoding holds exactly."""
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    held = constant(fill)
    return fill is None or (held is not None and not held.any())


def data_inputs(node: ir.Node) -> list[ir.Value]:
    """The real-valued inputs that carry tensors, weights included; bounds and fill values are not among them."""
    inputs = list(node.inputs)[: DATA_INPUTS.get(node.op_type)]
    return [value for value in inputs if value is not None and dtype_name(value) == "float32"]


def activation_inputs(node: ir.Node) -> list[ir.Value]:
    """The real-valued inputs that are computed at run time."""
    return [value for value in data_inputs(node) if constant(value) is None]


def fuses(producer: ir.Node, consumer: ir.Node) -> bool:
    """Whether every runtime folds ``consumer`` (an activation) into ``producer``, so that no codes exist between them."""
    if producer.op_type not in ("Conv", "Gemm", "Add") or len(producer.outputs) != 1 or producer.outputs[0].is_graph_output():
        return False
    single = len(list(producer.outputs[0].uses())) == 1
    return single and (consumer.op_type == "Relu" or is_relu6(consumer))


def is_relu6(node: ir.Node) -> bool:
    """Clip with constant bounds 0 and 6."""
    if node.op_type != "Clip" or len(node.inputs) < 3:
        return False
    low, high = constant(node.inputs[1]), constant(node.inputs[2])
    return low is not None and high is not None and float(low) == 0.0 and float(high) == 6.0
