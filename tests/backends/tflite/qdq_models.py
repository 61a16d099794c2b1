"""Quantized hubs written by hand: one operator between Q/DQ pairs, and what it means in float64."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.backends.tflite.models import Hub, node

Array = NDArray[Any]


@dataclass(frozen=True)
class Codes:
    """A uint8 per-tensor encoding."""

    scale: float
    zero_point: int

    @classmethod
    def of(cls, low: float, high: float) -> "Codes":
        low, high = min(low, 0.0), max(high, 0.0)
        scale = np.float32((high - low) / 255)
        return cls(float(scale), int(np.clip(round(-low / float(scale)), 0, 255)))

    def exact(self, real: Array) -> Array:
        """Unrounded code positions, cut to 0..255."""
        return np.clip(real / self.scale + self.zero_point, 0, 255)

    def round(self, real: Array) -> Array:
        """The nearest real a code stands for, in float64."""
        return (np.clip(np.rint(real / self.scale) + self.zero_point, 0, 255) - self.zero_point) * self.scale


SOFTMAX = Codes(1 / 256, 0)
TANH = Codes(1 / 128, 128)


@dataclass
class Quantized:
    """One operator on codes.

    Attributes:
        inputs: real samples (already float32) and how they are held.
        weight: float weight, quantized here per channel along ``axis``; bias: float.
        parameters: constants that are no reals (axes, shapes); sizes: of a Resize, whose roi and scales are omitted.
        activation: a node that follows the operator inside the pair ("Relu", "Relu6").
    """

    operator: str
    inputs: list[Array]
    held: list[Codes]
    output: Codes
    attributes: dict[str, Any] = field(default_factory=dict)
    weight: Array | None = None
    bias: Array | None = None
    axis: int = 0
    activation: str = ""
    parameters: dict[str, Array] = field(default_factory=dict)
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Samples are exactly what codes stand for: how a runtime rounds its input is not this operator's doing."""
        snapped = [held.round(array.astype(np.float64)) for array, held in zip(self.inputs, self.held, strict=True)]
        self.inputs = [array.astype(np.float32) for array in snapped]

    def weight_scale(self) -> Array:
        assert self.weight is not None
        others = tuple(axis for axis in range(self.weight.ndim) if axis != self.axis % self.weight.ndim)
        return (np.abs(self.weight).max(axis=others) / 127).astype(np.float32)

    def weight_codes(self) -> Array:
        assert self.weight is not None
        return np.clip(np.rint(self.weight / self._along_axis(self.weight_scale())), -127, 127).astype(np.int8)

    def bias_scale(self) -> Array:
        return (np.float32(self.held[0].scale) * self.weight_scale()).astype(np.float32)

    def bias_codes(self) -> Array:
        assert self.bias is not None
        return np.rint(self.bias / self.bias_scale()).astype(np.int32)

    def _along_axis(self, scale: Array) -> Array:
        assert self.weight is not None
        shape = [1] * self.weight.ndim
        shape[self.axis] = -1
        return scale.reshape(shape)

    def feed(self) -> dict[str, Array]:
        return {f"x{index}": array for index, array in enumerate(self.inputs)}

    def hub(self) -> Hub:
        """x -> Q -> DQ -> operator (-> activation) -> Q -> DQ -> y."""
        initializers: dict[str, Array] = dict(self.parameters)
        nodes: list[onnx.NodeProto] = []
        names = []
        for name, held in zip(self.feed(), self.held, strict=True):
            names.append(pair(nodes, initializers, name, held))
        if self.weight is not None:
            names.append(self._weight(nodes, initializers, "w", self.weight_codes(), self.weight_scale(), self.axis))
        if self.bias is not None:
            names.append(self._weight(nodes, initializers, "b", self.bias_codes(), self.bias_scale(), 0))
        names += [*self.parameters, *(["-", "-", "sizes"] if self.sizes else [])]
        initializers |= {"sizes": np.asarray(self.sizes, np.int64)} if self.sizes else {}
        nodes.append(node(self.operator, " ".join(names), "raw", "operator", **self.attributes))
        pair(nodes, initializers, self._activated(nodes, initializers), self.output, "y")
        return Hub(nodes, self.feed(), initializers)

    def _weight(self, nodes: list[Any], initializers: dict[str, Array], name: str, codes: Array, scale: Array, axis: int) -> str:
        initializers |= {f"{name}_codes": codes, f"{name}_scale": scale, f"{name}_zero": np.zeros(scale.shape, codes.dtype)}
        nodes.append(node("DequantizeLinear", f"{name}_codes {name}_scale {name}_zero", name, f"{name}_dq", axis=axis % codes.ndim))
        return name

    def _activated(self, nodes: list[Any], initializers: dict[str, Array]) -> str:
        if not self.activation:
            return "raw"
        bounds = ""
        if self.activation == "Relu6":
            initializers |= {"low": np.float32(0), "high": np.float32(6)}
            bounds = " low high"
        nodes.append(node("Clip" if bounds else "Relu", f"raw{bounds}", "activated", "activation"))
        return "activated"

    def exact(self) -> Array:
        """The operator in float64 on what the codes stand for, before rounding, through onnx's reference evaluator."""
        inputs = [held.round(array.astype(np.float64)) for array, held in zip(self.inputs, self.held, strict=True)]
        names = list(self.feed())
        constants: dict[str, Array] = {}
        if self.weight is not None:
            constants["w"] = self.weight_codes() * self._along_axis(self.weight_scale()).astype(np.float64)
        if self.bias is not None:
            constants["b"] = self.bias_codes() * self.bias_scale().astype(np.float64)
        constants |= self.parameters
        if self.sizes:
            constants |= {"-": np.zeros(0), "- ": np.zeros(0), "sizes": np.asarray(self.sizes, np.int64)}
        result = _evaluate(self.operator, dict(zip(names, inputs, strict=True)), constants, self.attributes)
        limits = {"": (-np.inf, np.inf), "Relu": (0, np.inf), "Relu6": (0, 6)}[self.activation]
        return self.output.exact(np.clip(result, *limits))


def pair(nodes: list[Any], initializers: dict[str, Array], name: str, held: Codes, result: str = "") -> str:
    """A Q/DQ pair after ``name``; returns the dequantized name."""
    result = result or f"{name}_dq"
    initializers |= {f"{name}_scale": np.float32(held.scale), f"{name}_zero": np.uint8(held.zero_point)}
    nodes.append(node("QuantizeLinear", f"{name} {name}_scale {name}_zero", f"{name}_q", f"{name}_quantize"))
    nodes.append(node("DequantizeLinear", f"{name}_q {name}_scale {name}_zero", result, f"{name}_dequantize"))
    return result


def _evaluate(operator: str, inputs: dict[str, Array], constants: dict[str, Array], attributes: dict[str, Any]) -> Array:
    graph = helper.make_graph(
        [node(operator, " ".join([*inputs, *constants]), **attributes)],
        "exact",
        [helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, array.shape) for name, array in inputs.items()],
        [helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items() if name.strip() != "-"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (result,) = ReferenceEvaluator(model).run(None, inputs)
    return np.asarray(result, np.float64)
