"""Blocks of well-known convolutional students, in every scheme, through the product's own canonical form, calibration and quantization."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgepack.backends.artifact import ArtifactDescription, WriteOptions
from edgepack.backends.tflite import write
from edgepack.calibration.observe import observe
from edgepack.calibration.readers import Samples
from edgepack.hub.canonical import canonicalize
from edgepack.quantize.apply import quantize_static
from edgepack.quantize.constraints import Demands
from edgepack.quantize.weights import quantize_weights
from tests.backends.tflite.models import Hub, node

SCHEMES = ("fp32", "fp16", "w8", "w8d8", "w8a8")


class Chain:
    """Builds a hub node by node; a method returns the name of what it wrote."""

    def __init__(self, *shape: int, seed: int = 5) -> None:
        self.rng = np.random.default_rng(seed)
        self.hub = Hub([], {"x": self.normal(*shape)}, {})

    def normal(self, *shape: int) -> NDArray[Any]:
        return self.rng.standard_normal(shape).astype(np.float32)

    def add(self, operator: str, inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"v{len(self.hub.nodes)}"
        self.hub.nodes.append(node(operator, inputs, name, f"{operator.lower()}_{name}", **attributes))
        return name

    def constant(self, value: Any) -> str:
        name = f"c{len(self.hub.initializers)}"
        self.hub.initializers[name] = np.asarray(value)
        return name

    def conv(self, x: str, *shape: int, operator: str = "Conv", **attributes: Any) -> str:
        """Weights that keep the variance of unit-normal inputs."""
        kernel = self.normal(*shape) / np.float32(np.sqrt(np.prod(shape[1:])))
        channels = shape[1] if operator == "ConvTranspose" else shape[0]
        bias = self.constant(self.normal(channels) / 4)
        return self.add(operator, f"{x} {self.constant(kernel)} {bias}", **attributes)

    def relu6(self, x: str) -> str:
        return self.add("Clip", f"{x} {self.constant(np.float32(0))} {self.constant(np.float32(6))}")


def mobilenet_v3() -> Hub:
    """Stem, then an inverted residual with hard-swish and squeeze-excite, then a head with global pooling and a linear layer."""
    chain = Chain(1, 3, 24, 24)
    stem = chain.add("HardSwish", chain.conv("x", 16, 3, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1]))
    wide = chain.add("HardSwish", chain.conv(stem, 48, 16, 1, 1))
    deep = chain.add("HardSwish", chain.conv(wide, 48, 1, 5, 5, group=48, pads=[2, 2, 2, 2]))
    squeezed = chain.add("Relu", chain.conv(chain.add("GlobalAveragePool", deep), 12, 48, 1, 1))
    gate = chain.add("HardSigmoid", chain.conv(squeezed, 48, 12, 1, 1), alpha=1 / 6, beta=0.5)
    narrow = chain.conv(chain.add("Mul", f"{deep} {gate}"), 16, 48, 1, 1)
    pooled = chain.add("GlobalAveragePool", chain.add("Add", f"{narrow} {stem}"))
    flat = chain.add("Flatten", pooled)
    hidden = chain.add("HardSwish", chain.add("Gemm", f"{flat} {chain.constant(chain.normal(32, 16) / 4)}", transB=1))
    chain.add("Gemm", f"{hidden} {chain.constant(chain.normal(10, 32) / 6)} {chain.constant(chain.normal(10))}", "y", transB=1)
    return chain.hub


def efficientnet_lite() -> Hub:
    """relu6, depthwise 3x3 and 5x5 with stride 2 and TensorFlow's padding, a residual, global pooling, a linear layer."""
    chain = Chain(1, 3, 33, 33)
    stem = chain.relu6(chain.conv("x", 16, 3, 3, 3, strides=[2, 2], pads=[0, 0, 1, 1]))
    first = chain.relu6(chain.conv(stem, 16, 1, 3, 3, group=16, strides=[2, 2], pads=[0, 0, 1, 1]))
    narrow = chain.conv(first, 12, 16, 1, 1)
    deep = chain.relu6(chain.conv(chain.relu6(chain.conv(narrow, 36, 12, 1, 1)), 36, 1, 5, 5, group=36, pads=[2, 2, 2, 2]))
    sum_ = chain.add("Add", f"{chain.conv(deep, 12, 36, 1, 1)} {narrow}")
    last = chain.relu6(chain.conv(chain.relu6(chain.conv(sum_, 36, 12, 1, 1)), 36, 1, 5, 5, group=36, strides=[2, 2], pads=[1, 1, 2, 2]))
    flat = chain.add("Flatten", chain.add("GlobalAveragePool", last))
    chain.add("Gemm", f"{flat} {chain.constant(chain.normal(10, 36) / 6)} {chain.constant(chain.normal(10))}", "y", transB=1)
    return chain.hub


def segmenter() -> Hub:
    """Encoder, a transposed convolution beside a linear resize, a skip connection, class scores of every pixel."""
    chain = Chain(1, 3, 24, 24)
    skip = chain.add("Relu", chain.conv("x", 8, 3, 3, 3, pads=[1, 1, 1, 1]))
    pooled = chain.add("MaxPool", skip, kernel_shape=[2, 2], strides=[2, 2])
    deep = chain.add("Relu", chain.conv(pooled, 16, 8, 3, 3, dilations=[2, 2], pads=[2, 2, 2, 2]))
    grown = chain.add("Relu", chain.conv(deep, 16, 8, 4, 4, operator="ConvTranspose", strides=[2, 2], pads=[1, 1, 1, 1]))
    sizes = chain.constant(np.asarray([1, 16, 24, 24], np.int64))
    wide = chain.add("Resize", f"{deep} - - {sizes}", mode="linear")
    joined = chain.add("Concat", f"{skip} {grown} {wide}", axis=1)
    chain.hub.nodes.append(node("Identity", chain.conv(joined, 5, 32, 1, 1), "y", "scores"))
    return chain.hub


BLOCKS = {"mobilenet_v3": mobilenet_v3, "efficientnet_lite": efficientnet_lite, "segmenter": segmenter}


def in_scheme(hub: Hub, scheme: str, folder: Path) -> ArtifactDescription:
    """``hub.onnx`` in a scheme and its artifact, in ``folder``; images at both ends are NHWC in the artifact."""
    model = canonicalize(onnx.load(hub.save(folder / "given.onnx")), hub.feed).model
    onnx.save(ir.to_proto(_quantized(model, hub, scheme)), folder / "hub.onnx")
    return write(folder / "hub.onnx", folder, WriteOptions(scheme, {"x": "NCHW"}, {"y": "NCHW"}))


def _quantized(model: ir.Model, hub: Hub, scheme: str) -> ir.Model:
    if scheme in ("fp32", "fp16"):
        return model
    if scheme != "w8a8":
        return quantize_weights(model, Demands(), dynamic=scheme == "w8d8")[0]
    rng = np.random.default_rng(1)
    arrays = {"x": rng.standard_normal((8, *hub.feed["x"].shape)).astype(np.float32)}
    ranges = observe(ir.to_proto(model), Samples(arrays), lambda done, total: None)
    return quantize_static(model, ranges, Demands())[0]
