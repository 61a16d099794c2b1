"""Sequential bias correction: weight rounding shifts each channel's mean; the bias takes the shift back.

Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2, here with measured
means (their appendix's empirical form) and layer after layer, so that each correction sees the corrected layers before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.calibration.observe import feed_of, with_outputs
from edgepack.calibration.readers import Progress, Samples
from edgepack.hub.canonical import plain_session
from edgepack.hub.graph import attribute, constant, reads
from edgepack.hub.passes import drop_unused
from edgepack.quantize.apply import bias_of, linear_nodes
from edgepack.quantize.insert import initializer
from edgepack.quantize.weights import weight_codes

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

Tensors = dict[str, NDArray[Any]]

_BIASED = ("Conv", "ConvTranspose", "Gemm")
# How the name of a float32 bias ends that is there to be corrected.
CORRECTED = "/corrected_bias"


@dataclass(frozen=True)
class _Layers:
    """Nodes whose biases are corrected, and how one takes a shift (C,): what it answers is what the stored bias really adds."""

    nodes: list[ir.Node]
    shift: Callable[[ir.Node, NDArray[np.float64]], NDArray[np.float64]]


def correct_biases(hub: ir.Model, quantized: ir.Model, samples: Samples, progress: Progress) -> dict[str, float]:
    """Correct the int32 biases of ``quantized`` in place.

    Args:
        hub: the fp32 hub; quantized: the same with a static scheme written into it.
        samples: the calibration set.

    Returns:
        For each corrected node, the largest shift over its channels, in units of the layer's output.
    """
    return _correct(hub, quantized, _Layers(linear_nodes(quantized), _shift_codes), samples, progress)


def correct_real_biases(hub: ir.Model, quantized: ir.Model, samples: Samples, progress: Progress) -> dict[str, float]:
    """As ``correct_biases`` where only weights are codes: ``quantized`` went through ``lay_out_biases``, its float32 biases change."""
    return _correct(hub, quantized, _Layers(_with_own_bias(quantized), _shift_real), samples, progress)


def lay_out_biases(quantized: ir.Model) -> None:
    """Give every Conv, ConvTranspose and Gemm whose weights are codes a float32 bias (C,) of its own, in place.

    Zeros where it had none, a copy where others read it too. Left alone: a bias that is computed, or not one number for each channel.
    """
    for node in quantized.graph:
        bias = _laid_out(node)
        if bias is not None:
            node.resize_inputs(3)
            node.replace_input_with(2, initializer(quantized.graph, f"{node.name}{CORRECTED}", bias))
    drop_unused(quantized)


def _laid_out(node: ir.Node) -> NDArray[np.float32] | None:
    """The bias that a node is to get; None for a node that is not corrected, whatever the reason."""
    weight = node.inputs[1] if node.op_type in _BIASED else None
    if weight is None or weight_codes(weight) is None or any(attribute(node, name, 1.0) != 1 for name in ("alpha", "beta")):
        return None
    channels = _channels(node, weight.shape.numpy() if weight.shape is not None else ())
    held = node.inputs[2] if len(node.inputs) > 2 else None
    bias = np.zeros(channels, np.float32) if held is None else constant(held)
    return bias if bias is not None and bias.shape == (channels,) and bias.dtype == np.float32 else None


def _channels(node: ir.Node, weight: tuple[int, ...]) -> int:
    """Output channels of a node by its weight's shape (ONNX Conv-22, ConvTranspose-22, Gemm-13)."""
    if node.op_type == "ConvTranspose":
        return weight[1] * int(attribute(node, "group", 1))
    return weight[1] if node.op_type == "Gemm" and not attribute(node, "transB", 0) else weight[0]


def _with_own_bias(quantized: ir.Model) -> list[ir.Node]:
    return [node for node in quantized.graph if len(node.inputs) > 2 and _has_own_bias(node.inputs[2])]


def _has_own_bias(value: ir.Value | None) -> bool:
    return value is not None and (value.name or "").endswith(CORRECTED)


def _correct(hub: ir.Model, quantized: ir.Model, layers: _Layers, samples: Samples, progress: Progress) -> dict[str, float]:
    import onnx_ir as ir

    nodes = {node.outputs[0].name or "": node for node in layers.nodes}
    held = {value.name for node in hub.graph for value in node.outputs}
    wanted = {name: name if name in held else name.removesuffix("_real") for name in nodes}
    means = _channel_means(ir.to_proto(hub), list(wanted.values()), samples)
    shifts: dict[str, float] = {}
    walk = _Walk(ir.to_proto(quantized), samples)
    for done, name in enumerate(walk.stops(list(nodes))):
        shift = means[wanted[name]] - walk.channel_mean(name)
        applied = layers.shift(nodes[name], shift)
        walk.shift(name, applied)
        shifts[nodes[name].name or ""] = float(np.abs(applied).max())
        progress(done + 1, len(nodes))
    return shifts


def _shift_codes(node: ir.Node, shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add a shift for each channel to the bias codes; answers what the rounded codes really add."""
    import onnx_ir as ir

    value, codes, scale = bias_of(node)
    limit = np.iinfo(np.int32).max
    corrected = np.clip(np.rint(codes.astype(np.float64) + shift / scale), -limit, limit).astype(np.int32)
    value.const_value = ir.tensor(corrected, name=value.name)
    applied: NDArray[np.float64] = (corrected.astype(np.float64) - codes) * scale
    return applied


def _shift_real(node: ir.Node, shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add a shift for each channel to a float32 bias; answers what its rounding leaves of it."""
    import onnx_ir as ir

    value = node.inputs[2]
    bias = constant(value)
    assert value is not None and bias is not None
    corrected = (bias.astype(np.float64) + shift).astype(np.float32)
    value.const_value = ir.tensor(corrected, name=value.name)
    applied: NDArray[np.float64] = corrected.astype(np.float64) - bias
    return applied


def _channel_means(model: onnx.ModelProto, names: list[str], samples: Samples) -> dict[str, NDArray[np.float64]]:
    run = plain_session(with_outputs(model, names))
    sums: dict[str, NDArray[np.float64]] = {}
    for index in range(samples.count):
        for name, array in run(feed_of(samples, index), names).items():
            sums[name] = sums.get(name, np.zeros(())) + _mean_over_channels(array)
    return {name: total / samples.count for name, total in sums.items()}


def _mean_over_channels(array: NDArray[Any]) -> NDArray[np.float64]:
    """Mean of (N, C, ...) over all axes but 1, in float64."""
    result: NDArray[np.float64] = array.astype(np.float64).mean(axis=tuple(axis for axis in range(array.ndim) if axis != 1))
    return result


@dataclass(frozen=True)
class _Segment:
    """Consecutive nodes up to and including the one that makes ``stop``; ``keeps`` are tensors later segments read."""

    stop: str
    run: Callable[..., Tensors]
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    keeps: frozenset[str]


class _Walk:
    """Evaluates a graph segment by segment over all samples, holding only the tensors that are still needed.

    One evaluation of the graph in total, however many layers are corrected.
    """

    def __init__(self, model: onnx.ModelProto, samples: Samples) -> None:
        self._model = model
        self._live: list[Tensors] = [feed_of(samples, index) for index in range(samples.count)]

    def stops(self, names: list[str]) -> Iterator[str]:
        """Yield each stop once its tensor is computed; what the caller shifts is what later segments read."""
        for segment in _segments(self._model, names):
            for index, tensors in enumerate(self._live):
                made = segment.run({name: tensors[name] for name in segment.reads}, segment.makes)
                self._live[index] = {name: array for name, array in {**tensors, **made}.items() if name in segment.keeps}
            yield segment.stop

    def channel_mean(self, name: str) -> NDArray[np.float64]:
        total = sum((_mean_over_channels(tensors[name]) for tensors in self._live), np.zeros(()))
        return total / len(self._live)

    def shift(self, name: str, amount: NDArray[np.float64]) -> None:
        for tensors in self._live:
            shape = (1, -1, *([1] * (tensors[name].ndim - 2)))
            tensors[name] = (tensors[name] + amount.reshape(shape)).astype(np.float32)


def _segments(model: onnx.ModelProto, stops: list[str]) -> Iterator[_Segment]:
    weights = {tensor.name for tensor in model.graph.initializer}
    decoded = _decoded(model, weights)
    nodes = [node for node in model.graph.node if node.output[0] not in decoded]
    start = 0
    for end, node in enumerate(nodes, 1):
        if not set(node.output) & set(stops):
            continue
        stop = next(name for name in node.output if name in stops)
        part = _with_decoded(nodes[start:end], decoded)
        later = {name for after in nodes[end:] for name in reads(after)} - decoded.keys()
        made = [name for inner in part for name in inner.output]
        read = dict.fromkeys(name for inner in part for name in reads(inner) if name not in weights and name not in made)
        makes = tuple(name for name in made if name in later or name == stop)
        run = plain_session(_submodel(model, part, list(read), list(makes)))
        yield _Segment(stop, run, tuple(read), makes, frozenset(later | {stop}))
        start = end


def _decoded(model: onnx.ModelProto, weights: set[str]) -> dict[str, onnx.NodeProto]:
    """The nodes that read weights back from codes, by output: a table that layers share is decoded for each, not held for each sample."""
    found: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        if node.op_type in ("DequantizeLinear", "Transpose") and all(name in weights or name in found for name in node.input):
            found[node.output[0]] = node
    return found


def _with_decoded(nodes: list[onnx.NodeProto], decoded: dict[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Nodes after those that decode the weights they read."""
    wanted = {name for node in nodes for name in reads(node)}
    for name, node in reversed(decoded.items()):
        wanted |= set(node.input) if name in wanted else set()
    return [*(node for name, node in decoded.items() if name in wanted), *nodes]


def _submodel(model: onnx.ModelProto, nodes: list[onnx.NodeProto], inputs: list[str], makes: list[str]) -> onnx.ModelProto:
    import onnx

    typed = {value.name: value for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    used = {name for node in nodes for name in reads(node)}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    graph = onnx.helper.make_graph(nodes, "segment", [typed[name] for name in inputs], [typed[name] for name in makes], weights)
    return onnx.helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
