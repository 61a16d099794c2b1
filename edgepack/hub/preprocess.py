"""Preprocessing as part of the model: a hub that takes pixels 0 to 255, ``factor * pixel + shift`` per channel written into its graph.

Where the first operator is a Conv, its weights take the factor, and its bias the shift, and nothing is added; that is exact unless the
Conv pads, because zeros beside the image are zeros of what the student takes, not pixels. There, and before any other operator, one
depthwise 1x1 Conv computes the affine: every runtime has it in float and in int8, where each channel has a weight code of its own and only
the result is rounded, and every delegate takes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgepack.hub.graph import HubError, attribute, constant, dtype_name, label
from edgepack.hub.passes import drop_unused
from edgepack.hub.passes.editing import initializer

if TYPE_CHECKING:
    import onnx_ir as ir

# Codes of a weight are shared by the input channels of an output channel: a factor half as large as another costs one bit of eight.
LARGEST_SPREAD = 2.0
_RANK = 4
_CHANNELS_FIRST = [0, 3, 1, 2]
_HINT = "leave --fold-preprocessing out"


@dataclass(frozen=True)
class Affine:
    """``factor * pixel + shift``; float64, shape (C,) both."""

    factor: NDArray[np.float64]
    shift: NDArray[np.float64]


def fold_preprocessing(model: ir.Model, affine: Affine, layout: str, absorb: bool = True) -> str:
    """Let the single input of a canonical hub take pixels; the input keeps its name, shape and type. The model is changed.

    Args:
        layout: of the input, "NCHW" or "NHWC".
        absorb: whether weights may become smaller by the factor, 255 times the standard deviation. Not where int8 weights get fp16
            scales: the smallest of those, 2^-14, is more than a code of 1/255 * 0.5 / 127.

    Returns:
        What was done, for the report.

    Raises:
        HubError: the model has several inputs, one that is no float32 image of C channels, or codes of its own.
    """
    pixels = _image_input(model, len(affine.factor), layout)
    if (affine.factor == 1).all() and not affine.shift.any():
        return "takes pixels 0 to 255, as the student does"
    value = pixels if layout == "NCHW" else _as_channels_first(pixels)
    conv = _absorbing_conv(value, affine) if absorb and value is not None else None
    if conv is not None:
        _absorb(model.graph, conv, affine)
        done = f"preprocessing is in the weights of {label(conv)}"
    elif value is not None:
        _insert(model.graph, value, "Conv", _depthwise(model.graph, value, affine))
        done = "preprocessing is a depthwise 1x1 Conv at the input"
    else:
        _insert_last_axis(model.graph, pixels, affine)
        done = "preprocessing is a Mul and an Add at the input"
    drop_unused(model)
    return f"takes pixels 0 to 255: {done}"


def _image_input(model: ir.Model, channels: int, layout: str) -> ir.Value:
    if len(model.graph.inputs) != 1:
        raise HubError(f"preprocessing is of one input, the student has {len(model.graph.inputs)}", _HINT)
    value = model.graph.inputs[0]
    sizes = list(value.shape or ())
    if dtype_name(value) != "float32" or len(sizes) != _RANK or sizes[layout.index("C")] != channels:
        raise HubError(f"input '{value.name}' {dtype_name(value)}{sizes} is no {layout} image of {channels} channels", _HINT)
    if value.is_graph_output():
        raise HubError(f"input '{value.name}' is also an output, which preprocessing would change", _HINT)
    if any(node.op_type == "QuantizeLinear" for node in model.graph):
        raise HubError("the student carries codes of its own, those of its input among them", _HINT)
    return value


def _as_channels_first(value: ir.Value) -> ir.Value | None:
    """What the only reader of an NHWC input, a Transpose to NCHW, makes of it; None where the reader is another."""
    node = _only_reader(value)
    found = node is not None and node.op_type == "Transpose" and attribute(node, "perm") == _CHANNELS_FIRST
    return node.outputs[0] if node is not None and found and not node.outputs[0].is_graph_output() else None


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 else None


def _absorbing_conv(value: ir.Value, affine: Affine) -> ir.Node | None:
    """The Conv that alone reads the image and can take the affine into constants of its own."""
    node = _only_reader(value)
    if node is None or node.op_type != "Conv" or node.inputs[0] is not value:
        return None
    biased = len(node.inputs) > 2 and node.inputs[2] is not None
    known = constant(node.inputs[1]) is not None and (not biased or constant(node.inputs[2]) is not None)
    plain = not any(attribute(node, "pads", [])) and attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
    magnitudes = np.abs(affine.factor)
    even = magnitudes.max() <= LARGEST_SPREAD * magnitudes.min()
    return node if known and even and (plain or not affine.shift.any()) else None


def _absorb(graph: ir.Graph, conv: ir.Node, affine: Affine) -> None:
    """``W (f p + s) + b = (W f) p + (W s + b)``, in float64, rounded once."""
    weight = constant(conv.inputs[1])
    assert weight is not None
    exact = weight.astype(np.float64)
    factor, shift = (_of_weight(each, weight.shape, attribute(conv, "group", 1)) for each in (affine.factor, affine.shift))
    conv.replace_input_with(1, initializer(graph, f"{conv.name}/pixels/weight", (exact * factor).astype(np.float32)))
    held = constant(conv.inputs[2]) if len(conv.inputs) > 2 else None
    added = (exact * shift).sum(axis=tuple(range(1, exact.ndim)))
    if held is None and not added.any():
        return
    bias = initializer(graph, f"{conv.name}/pixels/bias", ((0.0 if held is None else held.astype(np.float64)) + added).astype(np.float32))
    conv.resize_inputs(3)
    conv.replace_input_with(2, bias)


def _of_weight(channels: NDArray[np.float64], shape: tuple[int, ...], groups: int) -> NDArray[np.float64]:
    """Numbers by input channel as a weight (C_out, C_in / groups, ...) meets them: output m reads group m // (C_out / groups)."""
    per_group = channels.reshape(groups, shape[1])
    return np.repeat(per_group, shape[0] // groups, axis=0).reshape(shape[0], shape[1], *[1] * (len(shape) - 2))


def _depthwise(graph: ir.Graph, value: ir.Value, affine: Affine) -> tuple[list[ir.Value], dict[str, object]]:
    """Constants and attributes of the Conv that computes the affine, one group a channel."""
    channels = len(affine.factor)
    weight = initializer(graph, f"{value.name}/factor", affine.factor.astype(np.float32).reshape(channels, 1, 1, 1))
    bias = initializer(graph, f"{value.name}/shift", affine.shift.astype(np.float32))
    sizes = {"kernel_shape": [1, 1], "pads": [0, 0, 0, 0], "strides": [1, 1], "dilations": [1, 1]}
    return [weight, bias], {**sizes, "group": channels}


def _insert_last_axis(graph: ir.Graph, value: ir.Value, affine: Affine) -> None:
    """Mul and Add along the last axis, for an NHWC image that is not transposed first."""
    scaled = _insert(graph, value, "Mul", ([initializer(graph, f"{value.name}/factor", affine.factor.astype(np.float32))], {}))
    _insert(graph, scaled, "Add", ([initializer(graph, f"{value.name}/shift", affine.shift.astype(np.float32))], {}))


def _insert(graph: ir.Graph, value: ir.Value, operator: str, rest: tuple[list[ir.Value], dict[str, object]]) -> ir.Value:
    """Put a node between a value and all who read it; its output is of the value's shape and type."""
    import onnx_ir as ir

    readers, producer = list(value.uses()), value.producer()
    constants, attributes = rest
    node = ir.node(operator, [value, *constants], attributes, name=f"{value.name}/{operator}")  # type: ignore[arg-type]
    result = node.outputs[0]
    result.name, result.shape, result.type = _free_name(graph, f"{value.name}_{_RESULTS[operator]}"), value.shape, value.type
    for use in readers:
        use.node.replace_input_with(use.idx, result)
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    return result


_RESULTS = {"Conv": "normalized", "Mul": "scaled", "Add": "normalized"}


def _free_name(graph: ir.Graph, name: str) -> str:
    taken = {value.name for node in graph for value in node.outputs} | {value.name for value in graph.inputs} | set(graph.initializers)
    while name in taken:
        name += "_"
    return name
