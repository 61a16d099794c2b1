"""Students of other shapes than the demo's, written by hand in ONNX: no exporter, no torch, weights from a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int, ...]
# Enough that the gate tells a wrong converter from chance, few enough for a test.
SAMPLES = 24


@dataclass
class Network:
    """Nodes and weights, gathered call by call; every method answers the name of what it made."""

    opset: int = 21
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def __call__(self, operator: str, *inputs: str, outputs: Sequence[str] = (), **attributes: object) -> str:
        names = list(outputs) or [f"{operator.lower()}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=f"n{len(self.nodes)}", **attributes))
        return names[0]

    def constant(self, values: object, dtype: str = "float32") -> str:
        name = f"k{len(self.weights)}"
        self.weights[name] = np.asarray(values, dtype)
        return name

    def weight(self, *shape: int) -> str:
        """He initialization, over all but the first axis."""
        return self.constant(self.random.standard_normal(shape) * np.sqrt(2 / max(1, int(np.prod(shape[1:])))))

    def conv(self, x: str, out: int, channels: int, kernel: Shape, group: int = 1, **attributes: object) -> str:
        bias = self.constant(self.random.standard_normal(out) * 0.1)
        return self("Conv", x, self.weight(out, channels // group, *kernel), bias, group=group, **attributes)

    def clip(self, x: str, low: float, high: float) -> str:
        return self("Clip", x, self.constant(low), self.constant(high))

    def norm(self, x: str, channels: int) -> str:
        """A BatchNormalization with statistics as training leaves them: far from 0 and 1, one channel nearly silenced."""
        gamma = self.random.uniform(0.3, 1.7, channels)
        gamma[0] = 1e-7
        spread = self.random.uniform(0.05, 4, channels)
        parameters = (gamma, self.random.normal(0, 0.3, channels), self.random.normal(0, 0.5, channels), spread)
        return self("BatchNormalization", x, *map(self.constant, parameters))

    def save(self, path: Path, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> None:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "student",
            [value(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [value(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)


def gated_segmenter(path: Path) -> dict[str, Shape]:
    """A small U-Net of 24 x 16 pixels: pool, transposed convolution, skip, a Sigmoid gate joined with numbers far beyond 1; two outputs."""
    net = Network()
    first = net("Relu", net.conv("image", 8, 3, (3, 3), pads=[1, 1, 1, 1]))
    deep = net("Relu", net.conv(net("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2]), 16, 8, (3, 3), pads=[1, 1, 1, 1]))
    up = net("ConvTranspose", deep, net.weight(16, 8, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
    gate = net("Sigmoid", net.conv(first, 8, 8, (1, 1)))
    joined = net("Concat", gate, net("Mul", up, net.constant(20)), net("Mul", first, gate), axis=1)
    net("Resize", net.conv(joined, 4, 24, (1, 1)), "", net.constant([1, 1, 2, 2]), outputs=["mask"], mode="linear")
    pooled = net("Reshape", net("GlobalAveragePool", deep), net.constant([1, 16], "int64"))
    net("LogSoftmax", net("Gemm", pooled, net.weight(5, 16), transB=1), outputs=["kind"])
    net.save(path, {"image": (1, 3, 24, 16)}, {"mask": (1, 4, 48, 32), "kind": (1, 5)})
    return {"image": (1, 3, 24, 16)}


def mobile_classifier(path: Path) -> dict[str, Shape]:
    """Asymmetric padding at stride 2, depthwise, ReLU6, squeeze-and-excite, an image flattened into a matrix; odd names."""
    net = Network(opset=13)
    x = net.clip(net.norm(net.conv("in put:0", 8, 3, (3, 3), strides=[2, 2], pads=[0, 0, 1, 1]), 8), 0, 6)
    x = net.clip(net.norm(net.conv(x, 16, 8, (1, 1)), 16), 0, 6)
    x = net.conv(x, 16, 16, (3, 3), group=16, pads=[1, 1, 1, 1])
    x = net("Mul", x, net("HardSigmoid", x, alpha=1 / 6, beta=0.5))
    squeezed = net("Relu", net.conv(net("GlobalAveragePool", x), 4, 16, (1, 1)))
    x = net("Mul", x, net("HardSigmoid", net.conv(squeezed, 16, 4, (1, 1)), alpha=1 / 6, beta=0.5))
    x = net("AveragePool", net.norm(net.conv(x, 12, 16, (1, 1)), 12), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    flat = net("Flatten", x)
    net("Softmax", net("Gemm", flat, net.weight(7, 12 * 6 * 5), transB=1, alpha=0.5), outputs=["out/1"])
    net.save(path, {"in put:0": (1, 3, 24, 20)}, {"out/1": (1, 7)})
    return {"in put:0": (1, 3, 24, 20)}


def audio_with_metadata(path: Path) -> dict[str, Shape]:
    """1-D convolutions, dilated and grouped, a normalization spelled out with its epsilon, a second input that scales channels."""
    net = Network()
    x = net("LeakyRelu", net.conv("wave", 12, 2, (7,), strides=[2], pads=[3, 3]), alpha=0.1)
    x = net("Relu", net.conv(x, 12, 12, (3,), group=3, dilations=[2], pads=[4, 0]))
    x = net("Mul", x, net.constant(0.01))
    mean = net("ReduceMean", net("Pow", x, net.constant(2)), net.constant([1], "int64"))
    x = net("Div", x, net("Sqrt", net("Add", mean, net.constant(1e-4))))
    gain = net("Sigmoid", net("Gemm", "facts", net.weight(12, 5), transB=1))
    x = net("Mul", x, net("Unsqueeze", gain, net.constant([2], "int64")))
    summed = net("ReduceMean", net("MaxPool", x, kernel_shape=[3], strides=[2]), net.constant([2], "int64"), keepdims=0)
    net("Tanh", net("Gemm", summed, net.weight(4, 12), transB=1), outputs=["score"])
    inputs = {"wave": (1, 2, 96), "facts": (1, 5)}
    net.save(path, inputs, {"score": (1, 4)})
    return inputs


def dense_upscaler(path: Path) -> dict[str, Shape]:
    """Concat of concat with a BatchNormalization no convolution precedes, channel shuffle, pixel shuffle; two images at a time."""
    net = Network()
    x = net.conv("x", 8, 1, (3, 3), pads=[1, 1, 1, 1])
    for channels in (8, 12):
        grown = net.conv(net("Relu", net.norm(x, channels)), 4, channels, (3, 3), pads=[1, 1, 1, 1])
        x = net("Concat", x, grown, axis=1)
    split = net("Reshape", x, net.constant([2, 2, 8, 10, 14], "int64"))
    x = net("Reshape", net("Transpose", split, perm=[0, 2, 1, 3, 4]), net.constant([2, 16, 10, 14], "int64"))
    x = net.conv(x, 18, 16, (3, 3), group=2, pads=[1, 1, 1, 1])
    net("DepthToSpace", x, blocksize=3, mode="CRD", outputs=["picture"])
    net.save(path, {"x": (2, 1, 10, 14)}, {"picture": (2, 2, 30, 42)})
    return {"x": (2, 1, 10, 14)}


def with_calibration(path: Path, inputs: Mapping[str, Shape]) -> Path:
    """Smooth random samples for every input and the manifest that names them, beside the student."""
    random = np.random.default_rng(11)
    samples = {name: random.standard_normal((SAMPLES, *shape)).astype(np.float32).cumsum(-1) / 2 for name, shape in inputs.items()}
    np.savez(path.with_suffix(".npz"), **samples)  # type: ignore[arg-type]
    manifest = path.with_suffix(".toml")
    manifest.write_text(f'name = "{path.stem}"\n[calibration]\nnpz = "{path.stem}.npz"\n')
    return manifest
