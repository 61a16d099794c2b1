"""A hub cut at the values somebody has: what one layer makes of given inputs, in float64 and in coarser arithmetic.

Everything is evaluated by onnx's own reference evaluator (``edgepack.hub.reference``), which shares no code with any backend.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepack.hub.canonical import plain_session
from edgepack.hub.graph import reads
from edgepack.hub.reference import Float64Run
from edgepack.quantize.encoding import Encoding
from edgepack.quantize.placement import ACTIVATIONS, DYNAMIC

if TYPE_CHECKING:
    import onnx

# What runtimes fold into the operator before it: the value in between exists in no artifact, or only at the price of the fusion.
_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "PRelu"})
_FUSING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "MaxPool", "AveragePool"})
_NEVER_CONSTANT = frozenset({"RandomNormal", "RandomUniform", "Multinomial", "Bernoulli"})


@dataclass(frozen=True)
class Segment:
    """The nodes between values that are known and one that is asked for.

    Attributes:
        model: they alone, with their constants; ``inputs`` are its inputs, ``value`` its output.
    """

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    value: str

    @property
    def operators(self) -> str:
        """Its operators but for the movement between codes and reals: "Conv+Relu"."""
        names = [node.op_type for node in self.model.graph.node]
        real = [name for name in names if name not in ("QuantizeLinear", "DequantizeLinear")]
        return "+".join(real or [name.removesuffix("Linear") for name in names[-1:]])

    @property
    def is_dynamic(self) -> bool:
        """Whether a node is marked to quantize its inputs as it runs."""
        marks = [(entry.key, entry.value) for node in self.model.graph.node for entry in node.metadata_props]
        return (ACTIVATIONS, DYNAMIC) in marks

    @property
    def roundings(self) -> int:
        """Values inside that are rounded to codes."""
        return sum(node.op_type == "QuantizeLinear" for node in self.model.graph.node)

    @cached_property
    def _run(self) -> Float64Run:
        return Float64Run(self.model)

    def in_float64(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The value for one sample of its inputs; reals are promoted. HubError when the evaluator cannot."""
        return self._run({name: feed[name] for name in self.inputs})[self.value]

    def in_float32(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The same, node by node in float32, by onnxruntime without any optimization."""
        held = {name: feed[name].astype(np.float32) if feed[name].dtype.kind == "f" else feed[name] for name in self.inputs}
        return plain_session(self.model)(held)[self.value]

    def in_float16(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The same with constants, inputs and every node's results rounded to float16, each node computed in float64."""
        values = {name: _half(feed[name]) for name in self.inputs}
        for node in self.model.graph.node:
            alone = _alone(self.model, node)
            found = Float64Run(alone)({given.name: values[given.name] for given in alone.graph.input})
            values |= {name: _half(array) for name, array in found.items()}
        return values[self.value]

    def with_coarse_inputs(self, feed: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """In float64, of real inputs rounded to 8 bits: what quantizing activations at run time costs at least."""
        return self.in_float64({name: _coarse(feed[name]) for name in self.inputs})


def _half(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float64)


def _coarse(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind != "f" or not array.any():
        return array
    step = float(np.abs(array).max()) / 127
    return np.asarray(np.rint(array.astype(np.float64) / step) * step)


def _alone(model: onnx.ModelProto, node: onnx.NodeProto) -> onnx.ModelProto:
    """One node of a segment with its constants, reals among them rounded to float16."""
    import onnx

    constants = {held.name: held for held in model.graph.initializer}
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    for part in (alone.graph.node, alone.graph.input, alone.graph.output, alone.graph.initializer):
        del part[:]
    alone.graph.node.append(node)
    read = list(dict.fromkeys(reads(node)))
    alone.graph.input.extend(onnx.ValueInfoProto(name=name) for name in read if name not in constants)
    alone.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
    for held in (constants[name] for name in read if name in constants):
        array = onnx.numpy_helper.to_array(held)
        alone.graph.initializer.append(onnx.numpy_helper.from_array(_half(array) if array.dtype.kind == "f" else array, held.name))
    return alone


class Network:
    """A hub as values: who computes each, who reads it, which are known before anything runs.

    Args:
        model: an ONNX model in execution order, weights embedded, without local functions.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.model = model
        self.inputs = tuple(value.name for value in graph.input if value.name not in {held.name for held in graph.initializer})
        self.outputs = tuple(value.name for value in graph.output)
        self._constants = {held.name: held for held in graph.initializer}
        self._nodes = list(graph.node)
        self._producer = {name: index for index, node in enumerate(self._nodes) for name in node.output if name}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self._nodes:
            for name in dict.fromkeys(reads(node)):
                self._readers.setdefault(name, []).append(node)
        self._fixed = self._fixed_values()
        self._types = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}

    def _fixed_values(self) -> frozenset[str]:
        fixed = set(self._constants)
        for node in self._nodes:
            if node.op_type not in _NEVER_CONSTANT and all(name in fixed for name in reads(node)):
                fixed.update(node.output)
        return frozenset(fixed)

    @property
    def values(self) -> tuple[str, ...]:
        """What nodes compute at run time, in execution order."""
        return tuple(name for name in self._producer if name not in self._fixed)

    @property
    def layers(self) -> tuple[str, ...]:
        """The values that a runtime which fuses what can be fused still has: no reals on their way into codes, none read back from codes,
        none between an operator and its activation. Outputs of the graph always are."""
        return tuple(name for name in self.values if name in self.outputs or not self._is_absorbed(name))

    def operator(self, value: str) -> str:
        """The operator that computes a value."""
        return str(self._nodes[self._producer[value]].op_type)

    def dtype(self, value: str) -> str:
        """The numpy name of a value's type, "float32" where the model does not say."""
        import onnx

        kind = self._types[value].type.tensor_type.elem_type if value in self._types else 0
        return str(onnx.helper.tensor_dtype_to_np_dtype(kind)) if kind else "float32"

    def encoding(self, value: str) -> Encoding | None:
        """How the codes of a value are to be read; None when it is not the result of a QuantizeLinear with constant scale."""
        return self._encoding(self._nodes[self._producer[value]]) if value in self._producer else None

    def quantized_from(self, value: str) -> str:
        """The real value that a QuantizeLinear turns into the codes ``value``."""
        return str(self._nodes[self._producer[value]].input[0])

    def real_name(self, value: str, known: Collection[str]) -> str | None:
        """The name among ``known`` of the real tensor that a value stands for, as the unquantized hub has it; None when it has none."""
        if value in known:
            return value
        if value not in self._producer:
            return None
        node = self._nodes[self._producer[value]]
        if node.op_type == "DequantizeLinear":
            return self.real_name(node.input[0], known)
        if node.op_type != "QuantizeLinear":
            return None
        # An output keeps its name on what is read back from its codes; what is quantized to make it has another.
        after = [name for reader in self._readers.get(value, ()) for name in reader.output if reader.op_type == "DequantizeLinear"]
        return next((name for name in (node.input[0], *after) if name in known), None)

    def segment(self, value: str, known: Collection[str]) -> Segment:
        """What computes ``value`` from values of ``known`` and inputs of the graph, never ``value`` itself from itself."""
        indices: set[int] = set()
        ends: dict[str, None] = {}
        waiting = [value]
        while waiting:
            name = waiting.pop()
            if name in self._constants:
                continue
            if name != value and (name in known or name not in self._producer):
                ends[name] = None
                continue
            index = self._producer[name]
            if index not in indices:
                indices.add(index)
                waiting += reads(self._nodes[index])
        return Segment(self._cut(sorted(indices), tuple(ends), value), tuple(ends), value)

    def with_outputs(self, values: Sequence[str]) -> onnx.ModelProto:
        """The whole model with ``values`` as its outputs."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[:]
        model.graph.output.extend(self._typed(name) for name in values)
        return model

    def _cut(self, indices: Sequence[int], inputs: Sequence[str], value: str) -> onnx.ModelProto:
        import onnx

        nodes = [self._nodes[index] for index in indices]
        read = {name for node in nodes for name in reads(node)}
        constants = [held for name, held in self._constants.items() if name in read]
        graph = onnx.helper.make_graph(nodes, "segment", [self._typed(name) for name in inputs], [self._typed(value)], constants)
        return onnx.helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)

    def _typed(self, name: str) -> onnx.ValueInfoProto:
        """A value with its element type and without a shape, which a cut may not know."""
        import onnx

        kind = self._types[name].type.tensor_type.elem_type if name in self._types else 0
        return onnx.helper.make_tensor_value_info(name, kind, None) if kind else onnx.ValueInfoProto(name=name)

    def _encoding(self, node: onnx.NodeProto) -> Encoding | None:
        import onnx

        if node.op_type != "QuantizeLinear" or any(name not in self._constants for name in node.input[1:] if name):
            return None
        scale = onnx.numpy_helper.to_array(self._constants[node.input[1]]).astype(np.float32)
        has_zero_point = len(node.input) > len(("x", "scale")) and bool(node.input[2])
        zero_point = onnx.numpy_helper.to_array(self._constants[node.input[2]]) if has_zero_point else np.zeros(scale.shape, np.uint8)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        return Encoding(scale, zero_point, str(zero_point.dtype), None if scale.ndim == 0 else axis)

    def _is_absorbed(self, name: str) -> bool:
        if self.operator(name) == "DequantizeLinear":
            return True
        readers = self._readers.get(name, [])
        if self._is_only_quantized(name):
            return True
        if len(readers) != 1 or readers[0].op_type not in _ACTIVATIONS or readers[0].input[0] != name:
            return False
        return self.operator(name) in _FUSING or self._is_only_quantized(readers[0].output[0])

    def _is_only_quantized(self, name: str) -> bool:
        readers = self._readers.get(name, [])
        return bool(readers) and name not in self.outputs and all(reader.op_type == "QuantizeLinear" for reader in readers)


def unrounded(encoding: Encoding, real: NDArray[Any]) -> NDArray[np.float64]:
    """Where ``real`` lies among the codes, in steps, before it is rounded: clipped to the codes there are."""
    low, high = encoding.limits
    held = replace(encoding, zero_point=np.zeros_like(encoding.zero_point))
    # dequantize(ones) spreads the scale over the axes of the tensor.
    scale = held.dequantize(np.ones(real.shape, np.int64), "float64")
    shift = replace(encoding, scale=np.ones_like(encoding.scale)).dequantize(np.zeros(real.shape, np.int64), "float64")
    return np.asarray(np.clip(real / scale - shift, low, high))
