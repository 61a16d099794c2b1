"""Placement: which nodes of a static scheme compute on codes and which stay real.

A node goes to codes when every selected target has an integer kernel for it, or moves codes without computing, or is a function of one
number that may as well be read from codes and written to them. What stays real, and why:

- Softmax and LogSoftmax: no delegate takes them in int8, and codes of 1/256 hold a row of many small probabilities badly.
- MatMul of two activations: int8 leaves the delegate (207 against 19 us, FACTS' method), and its operands are mostly such rows.
- Div, Sqrt, Log, Reciprocal, Exp, Pow, normalizations: one code is a large relative step there.
- ReduceSum and products over axes: their range grows with the axes, their codes with it.
- ArgMax, TopK, NonMaxSuppression, comparisons, Where: their results are no codes, and no delegate reads codes for them.
- cubic Resize: overshoots the range it would have to share.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from edgepack.hub.graph import attribute, constant, dtype_name

if TYPE_CHECKING:
    import onnx_ir as ir

# Weighted operators: int8 weights per channel, int32 bias. The number is the input that holds the weights.
LINEAR = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1}
# Operators whose output holds codes of the input, in another place: one encoding for both.
MOVES = frozenset(
    {"MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split"}
    | {"Gather", "Concat", "Identity", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Pad", "Max", "Min"}
)
# Means of neighbours compute, but stay within the range they read; TFLite's kernels are silently wrong with unequal encodings (FACTS.md).
SAME_ENCODING = MOVES | {"AveragePool", "Resize"}
# Integer kernels everywhere, with encodings of their own.
FREE = frozenset({"Add", "Sub", "Mul", "ReduceMean", "GlobalAveragePool", "Relu", "Clip", "LeakyRelu"})
# Functions of one number, computed in float from codes to codes: worth it only amid integer nodes, where codes are read and wanted anyway.
FUNCTIONS = frozenset({"HardSwish", "HardSigmoid", "PRelu", "Elu", "Mish", "Gelu", "Softplus"})
# Where a function has a pole or an unbounded slope at zero: operator and input.
_POLES = {"Div": 1, "Reciprocal": 0, "Sqrt": 0, "Log": 0}
# Output encodings that TFLite's kernels prescribe.
FIXED_OUTPUT = frozenset({"Sigmoid", "Tanh"})

# Node metadata in a quantized hub: a node that must stay real although codes surround it.
PLACEMENT, REAL = "edgepack.placement", "real"
# Node metadata of w8d8: a node computed on int8 activations whose range is found at run time.
ACTIVATIONS, DYNAMIC = "edgepack.activations", "dynamic"
# Inputs that carry the tensor, for operators whose further real-valued inputs are parameters (bounds, a fill value, scales, slopes).
DATA_INPUTS = {"Clip": 1, "Pad": 1, "Resize": 1, "PRelu": 1}

QUANTIZED = frozenset(LINEAR) | SAME_ENCODING | FREE | FUNCTIONS | FIXED_OUTPUT


def carries_codes(graph: ir.Graph) -> bool:
    """Whether a graph is quantized: it holds a QuantizeLinear or DequantizeLinear."""
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph)


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
    if node.op_type in LINEAR:
        return _has_constant_weights(node)
    form = _FORMS.get(node.op_type)
    return all(dtype_name(value) == "float32" for value in node.outputs) and (form is None or form(node))


def _has_constant_weights(node: ir.Node) -> bool:
    """Weights and bias are known, and have one axis of output channels."""
    others = [value for value in node.inputs[1:] if value is not None]
    weight = constant(node.inputs[1])
    if weight is None or any(constant(value) is None for value in others):
        return False
    if node.op_type == "MatMul":
        return weight.ndim == 2
    return node.op_type != "ConvTranspose" or attribute(node, "group", 1) == 1


def _worth(node: ir.Node, held: set[int]) -> bool:
    """Computing nodes always; movers only when codes arrive; functions when codes arrive and their readers could take codes."""
    if node.op_type not in SAME_ENCODING | FUNCTIONS:
        return True
    return codes_arrive(node, held) and (node.op_type in SAME_ENCODING or _is_read_by_takers(node))


def codes_arrive(node: ir.Node, held: set[int]) -> bool:
    """Whether each activation a node reads is an input of the graph or comes from a node in ``held`` (by ``id``)."""
    producers = [value.producer() for value in activation_inputs(node)]
    return all(producer is None or id(producer) in held for producer in producers)


def ends_as_output(node: ir.Node) -> bool:
    """Whether what a node gives is only moved on its way out of the graph: no integer kernel could take its codes."""
    readers = [use.node for value in node.outputs for use in value.uses()]
    leaves = bool(readers) or any(value.is_graph_output() for value in node.outputs)
    return leaves and all(reader.op_type in MOVES and ends_as_output(reader) for reader in readers)


def _is_read_by_takers(node: ir.Node) -> bool:
    uses = [use for value in node.outputs for use in value.uses()]
    return bool(uses) and not any(value.is_graph_output() for value in node.outputs) and all(_can(use.node) for use in uses)


def _pad_holds_zero(node: ir.Node) -> bool:
    """Reflected and repeated numbers are the tensor's own; zero is the one other number that every encoding holds exactly."""
    return attribute(node, "mode", "constant") != "constant" or _fill_is_zero(node)


def _resize_stays_within(node: ir.Node) -> bool:
    """Nearest copies and linear averages; cubic overshoots, and cropping writes a number of its own."""
    crops = attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    return attribute(node, "mode", "nearest") in ("nearest", "linear") and not crops


# Operators of which only some forms keep within their encoding.
_FORMS = {"Pad": _pad_holds_zero, "Resize": _resize_stays_within}


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
    return node.op_type == "Clip" and activation_range(node) == (0.0, 6.0)


def activation_range(node: ir.Node) -> tuple[float, float] | None:
    """What a Relu or a Clip with constant bounds leaves through; None for any other node."""
    if node.op_type == "Relu":
        return 0.0, inf
    if node.op_type != "Clip":
        return None
    given = [*node.inputs[1:3], None, None][:2]
    if any(value is not None and constant(value) is None for value in given):
        return None
    low, high = (None if value is None else constant(value) for value in given)
    return (-inf if low is None else float(low.item())), (inf if high is None else float(high.item()))
