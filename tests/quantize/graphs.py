"""Small hubs for the quantization tests, made through the product's own canonical form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from edgepack.calibration.observe import Ranges, observe
from edgepack.calibration.readers import Samples
from edgepack.hub.canonical import canonicalize

SHAPE = (1, 3, 8, 8)


def samples(count: int = 16, seed: int = 0, shape: Sequence[int] = SHAPE) -> Samples:
    """Uniform inputs in -1..1 called "x"."""
    return Samples({"x": np.random.default_rng(seed).uniform(-1, 1, (count, *shape)).astype(np.float32)})


def hub(nodes: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray], outputs: Sequence[str] = ("y",)) -> ir.Model:
    """A canonical hub from "x" to ``outputs``."""
    graph = onnx.helper.make_graph(
        list(nodes),
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, SHAPE)],
        [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    return canonicalize(model, {"x": samples(1).arrays["x"][0]}).model


def convolution(seed: int = 0, scale: float = 0.3) -> ir.Model:
    """Conv - Relu - MaxPool - Conv - Add(residual) - Relu - GlobalAveragePool - Reshape - Gemm."""
    random = np.random.default_rng(seed)
    normal = lambda *shape: (random.standard_normal(shape) * scale).astype(np.float32)  # noqa: E731
    node = onnx.helper.make_node
    weights = {
        "w1": normal(8, 3, 3, 3), "b1": normal(8), "w2": normal(8, 8, 3, 3),
        "w3": normal(5, 8), "b3": normal(5), "flat": np.asarray([1, 8], np.int64),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        node("Add", ["c2", "p1"], ["a"]),
        node("Relu", ["a"], ["r2"]),
        node("GlobalAveragePool", ["r2"], ["g"]),
        node("Reshape", ["g", "flat"], ["f"]),
        node("Gemm", ["f", "w3", "b3"], ["y"], transB=1),
    ]
    return hub(nodes, weights)


def ranges_of(model: ir.Model, data: Samples | None = None) -> Ranges:
    """Observed over ``samples()``."""
    return observe(ir.to_proto(model), data or samples(), lambda done, total: None)


def run_all(model: ir.Model, data: Samples, name: str = "y") -> np.ndarray:
    """The output over all samples, node by node in onnxruntime."""
    from edgepack.calibration.observe import feed_of
    from edgepack.hub.canonical import plain_session

    run = plain_session(ir.to_proto(model))
    return np.stack([run(feed_of(data, index))[name] for index in range(data.count)])


def _weights(seed: int = 0) -> Callable[..., np.ndarray]:
    random = np.random.default_rng(seed)
    return lambda *shape: (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def squeeze_excite() -> ir.Model:
    """A MobileNetV3 block: Conv - HardSwish - (pool, 1x1, Relu, 1x1, HardSigmoid) * - 1x1 Conv + residual."""
    w, node = _weights(), onnx.helper.make_node
    weights = {"w0": w(16, 3, 3, 3), "w1": w(4, 16, 1, 1), "w2": w(16, 4, 1, 1), "w3": w(16, 16, 1, 1)}
    nodes = [
        node("Conv", ["x", "w0"], ["c"], pads=[1, 1, 1, 1]),
        node("HardSwish", ["c"], ["h"]),
        node("GlobalAveragePool", ["h"], ["p"]),
        node("Conv", ["p", "w1"], ["s1"]),
        node("Relu", ["s1"], ["s2"]),
        node("Conv", ["s2", "w2"], ["s3"]),
        node("HardSigmoid", ["s3"], ["s4"], alpha=1 / 6, beta=0.5),
        node("Mul", ["h", "s4"], ["m"]),
        node("Conv", ["m", "w3"], ["o"]),
        node("Add", ["o", "h"], ["y"]),
    ]
    return hub(nodes, weights)


def decoder() -> ir.Model:
    """A U-Net's: Conv - Relu (skip) - MaxPool - Conv - Relu - bilinear x2, Concat with the skip and a LeakyRelu, ConvTranspose x2, Conv."""
    w, node = _weights(), onnx.helper.make_node
    weights = {
        "w0": w(8, 3, 3, 3), "w1": w(8, 8, 3, 3), "w2": w(8, 3, 1, 1), "w3": w(24, 8, 2, 2), "b3": w(8, 1)[:, 0], "w4": w(4, 8, 1, 1),
        "scales": np.asarray([1, 1, 2, 2], np.float32),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "w0"], ["c0"], pads=[1, 1, 1, 1]),
        node("Relu", ["c0"], ["skip"]),
        node("MaxPool", ["skip"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("Resize", ["r1", "", "scales"], ["up"], mode="linear", coordinate_transformation_mode="half_pixel"),
        node("Conv", ["x", "w2"], ["c2"]),
        node("LeakyRelu", ["c2"], ["signed"], alpha=0.1),
        node("Concat", ["up", "skip", "signed"], ["cat"], axis=1),
        node("ConvTranspose", ["cat", "w3", "b3"], ["t"], strides=[2, 2]),
        node("Relu", ["t"], ["rt"]),
        node("Conv", ["rt", "w4"], ["y"]),
    ]
    return hub(nodes, weights)


def pyramid() -> ir.Model:
    """A feature pyramid: two levels, the lower one enlarged by nearest Resize and added to the lateral of the upper, then a 3x3 Conv."""
    w, node = _weights(), onnx.helper.make_node
    weights = {
        "w0": w(8, 3, 3, 3), "w1": w(12, 8, 3, 3), "l0": w(8, 8, 1, 1), "l1": w(8, 12, 1, 1), "w2": w(8, 8, 3, 3),
        "scales": np.asarray([1, 1, 2, 2], np.float32),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "w0"], ["c0"], pads=[1, 1, 1, 1]),
        node("Relu", ["c0"], ["r0"]),
        node("Conv", ["r0", "w1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r0", "l0"], ["a"]),
        node("Conv", ["r1", "l1"], ["b"]),
        node("Resize", ["b", "", "scales"], ["up"], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Add", ["a", "up"], ["s"]),
        node("Conv", ["s", "w2"], ["y"], pads=[1, 1, 1, 1]),
    ]
    return hub(nodes, weights)


EMBEDDING_IDS = np.asarray([[0, 191, -1, -192, 5, 5, 64]], np.int64)


def embedding(tied: str = "", rows: int = 192, width: int = 48, seed: int = 0) -> ir.Model:
    """Rows of a table by "ids", int64 (1, 7) with negative ones; ``tied`` is who reads the table again as the last layer.

    "" nobody: "y" (1, 7, width). "transposed" a MatMul and "biased" a Gemm through a Transpose, "gemm" a Gemm with transB: "y" (7, rows).
    """
    random = np.random.default_rng(seed)
    # Rows of very different size: one scale for all of them would show.
    table = (random.standard_normal((rows, width)) * np.exp(random.standard_normal((rows, 1)))).astype(np.float32)
    held = {
        "table": table,
        "w": (random.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32),
        "flat": np.asarray([7, width]),
    }
    node = onnx.helper.make_node
    nodes = [node("Gather", ["table", "ids"], ["rows"], name="rows")]
    if tied:
        nodes += [node("MatMul", ["rows", "w"], ["mixed"]), node("Reshape", ["mixed", "flat"], ["list"])]
    if tied == "transposed":
        nodes += [node("Transpose", ["table"], ["columns"], perm=[1, 0]), node("MatMul", ["list", "columns"], ["y"], name="last")]
    if tied == "biased":
        nodes += [node("Transpose", ["table"], ["columns"], perm=[1, 0]), node("Gemm", ["list", "columns", "b"], ["y"], name="last")]
    if tied in ("gemm", "biased"):
        held["b"] = random.standard_normal(rows).astype(np.float32)
    if tied == "gemm":
        nodes += [node("Gemm", ["list", "table", "b"], ["y"], name="last", transB=1)]
    nodes += [] if tied else [node("Relu", ["rows"], ["y"])]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, EMBEDDING_IDS.shape)],
        [onnx.helper.make_empty_tensor_value_info("y")],
        [onnx.numpy_helper.from_array(array, name) for name, array in held.items() if name != "flat" or tied],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    return canonicalize(model, {"ids": EMBEDDING_IDS}).model
