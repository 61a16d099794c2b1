"""Q/DQ models written by hand, in the hub's exchange form: uint8 activations, int8 per-channel weights, int32 biases."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from .models import make_model


def fp16_scale(value: float) -> NDArray[np.float32]:
    """A scale that fp16 represents, as the constraint scale_dtype = "float16" leaves it."""
    return np.float32(np.float16(value)).reshape(())


def weight_codes(weight: NDArray[Any], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 codes in [-127, 127] and one scale a channel."""
    others = tuple(dimension for dimension in range(weight.ndim) if dimension != axis % weight.ndim)
    scale = (np.abs(weight).max(axis=others) / 127).astype(np.float16).astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    return np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8), scale


class QdqGraph:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Add an initializer."""
        self.constants[name] = array
        return name

    def activation(self, name: str, scale: float, zero_point: int) -> str:
        """A Q/DQ pair behind ``name``."""
        self.constant(f"{name}_scale", fp16_scale(scale))
        self.constant(f"{name}_zero", np.array(zero_point, np.uint8))
        parameters = [f"{name}_scale", f"{name}_zero"]
        self.nodes.append(helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_codes"], name=f"{name}_quantize"))
        self.nodes.append(helper.make_node("DequantizeLinear", [f"{name}_codes", *parameters], [f"{name}_real"], name=f"{name}_dequantize"))
        return f"{name}_real"

    def weight(self, name: str, array: NDArray[Any], axis: int) -> tuple[str, NDArray[np.float32]]:
        """A dequantized int8 weight and its scales."""
        codes, scale = weight_codes(array, axis)
        reads = [self.constant(f"{name}_codes", codes), self.constant(f"{name}_scale", scale)]
        reads.append(self.constant(f"{name}_zero", np.zeros(scale.shape, np.int8)))
        self.nodes.append(helper.make_node("DequantizeLinear", reads, [name], axis=axis, name=f"{name}_dequantize"))
        return name, scale

    def bias(self, name: str, array: NDArray[Any], scale: NDArray[np.float32]) -> str:
        """A dequantized int32 bias."""
        codes = np.rint(array / scale).astype(np.int32)
        reads = [self.constant(f"{name}_codes", codes), self.constant(f"{name}_scale", scale.astype(np.float32))]
        reads.append(self.constant(f"{name}_zero", np.zeros(scale.shape, np.int32)))
        self.nodes.append(helper.make_node("DequantizeLinear", reads, [name], axis=0, name=f"{name}_dequantize"))
        return name

    def node(self, operator: str, reads: list[str], write: str, **attributes: Any) -> str:
        """Any other node."""
        self.nodes.append(helper.make_node(operator, reads, [write], name=f"{write}_{operator.lower()}", **attributes))
        return write


# The range of a standard normal sample in uint8 codes.
INPUT_SCALE, INPUT_ZERO = 8 / 255, 128


def small_network(seed: int = 0) -> onnx.ModelProto:
    """conv + relu, max pool, flatten, Gemm without transB, MatMul: every way a weight is held."""
    rng = np.random.default_rng(seed)
    graph = QdqGraph()
    x = graph.activation("image", INPUT_SCALE, INPUT_ZERO)
    weight, scale = graph.weight("conv_weight", rng.normal(0, 0.3, (8, 3, 3, 3)), 0)
    bias = graph.bias("conv_bias", rng.normal(0, 0.2, 8), fp16_scale(INPUT_SCALE) * scale)
    graph.node("Conv", [x, weight, bias], "conv", pads=[1, 1, 1, 1])
    graph.node("Relu", ["conv"], "relu")
    x = graph.activation("relu", 6 / 255, 0)
    graph.node("MaxPool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2])
    x = graph.activation("pool", 6 / 255, 0)
    graph.node("Flatten", [x], "flat", axis=1)
    x = graph.activation("flat", 6 / 255, 0)
    weight, scale = graph.weight("gemm_weight", rng.normal(0, 0.1, (128, 16)), 1)
    bias = graph.bias("gemm_bias", rng.normal(0, 0.2, 16), fp16_scale(6 / 255) * scale)
    graph.node("Gemm", [x, weight, bias], "gemm")
    x = graph.activation("gemm", 20 / 255, 120)
    weight, _ = graph.weight("head_weight", rng.normal(0, 0.3, (16, 4)), 1)
    graph.node("MatMul", [x, weight], "head")
    graph.activation("head", 30 / 255, 127)
    return make_model(graph.nodes, {"image": (1, 3, 8, 8)}, ["head_real"], graph.constants)
