"""Small hubs for the quantization tests, made through the product's own canonical form."""

from __future__ import annotations

from collections.abc import Sequence

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
