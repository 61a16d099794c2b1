"""One small network as a float hub and, by hand, as a quantized hub: no code of edgepack made them."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def weights() -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(7)
    shapes = {"w1": (8, 3, 3, 3), "w2": (8, 8, 1, 1), "w3": (8, 8, 3, 3)}
    return {name: (random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32) for name, shape in shapes.items()}


def _model(nodes: list[onnx.NodeProto], constants: dict[str, NDArray[np.generic]]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 12, 12))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 12, 12))],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def float_hub() -> onnx.ModelProto:
    """image -> Conv -> Relu -> Conv(1x1) -> Relu -> Conv -> y; a name with a slash, which Core ML does not take."""
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b"], ["c1"], name="n1", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["block/r1"], name="n2"),
        helper.make_node("Conv", ["block/r1", "w2", "b"], ["c2"], name="n3"),
        helper.make_node("Relu", ["c2"], ["r2"], name="n4"),
        helper.make_node("Conv", ["r2", "w3", "b"], ["y"], name="n5", pads=[1] * 4),
    ]
    return _model(nodes, {**weights(), "b": np.linspace(-0.1, 0.1, 8, dtype=np.float32)})


# Powers of two are exact in fp16; they cover the values of these weights and inputs.
_SCALES = {"image": 2.0**-7, "block/r1": 2.0**-6, "r2": 2.0**-6, "y": 2.0**-5}
_ZEROS = {"image": 128, "block/r1": 0, "r2": 0, "y": 128}


def quantized_hub() -> onnx.ModelProto:
    """The float hub in w8a8, written by hand: Q/DQ around every tensor, weights in int8 for each channel, biases in int32."""
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, NDArray[np.generic]] = {}

    def pair(source: str, name: str, result: str) -> None:
        constants[f"{name}/s"], constants[f"{name}/z"] = np.float32(_SCALES[name]).reshape(()), np.uint8(_ZEROS[name]).reshape(())
        nodes.append(helper.make_node("QuantizeLinear", [source, f"{name}/s", f"{name}/z"], [f"{name}_quantized"], name=f"q {name}"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_quantized", f"{name}/s", f"{name}/z"], [result], name=f"d {name}"))

    def convolution(source: str, weight: str, entering: str, result: str, pads: int) -> None:
        real = weights()[weight]
        largest = np.abs(real).reshape(8, -1).max(axis=1) / 127
        scale = (2.0 ** np.ceil(np.log2(largest))).astype(np.float32)
        codes = np.rint(real / scale.reshape(8, 1, 1, 1)).astype(np.int8)
        bias_scale = (scale * np.float32(_SCALES[entering])).astype(np.float32)
        bias = np.rint(np.linspace(-0.1, 0.1, 8) / bias_scale).astype(np.int32)
        for name, array, by in ((weight, codes, scale), (f"{weight}/b", bias, bias_scale)):
            constants[f"{name}/codes"], constants[f"{name}/s"], constants[f"{name}/z"] = array, by, np.zeros(8, array.dtype)
            inputs = [f"{name}/codes", f"{name}/s", f"{name}/z"]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_real"], name=f"d {name}", axis=0))
        inputs = [source, f"{weight}_real", f"{weight}/b_real"]
        nodes.append(helper.make_node("Conv", inputs, [result], name=f"conv {weight}", pads=[pads] * 4))

    pair("image", "image", "image_dequantized")
    convolution("image_dequantized", "w1", "image", "c1", 1)
    nodes.append(helper.make_node("Relu", ["c1"], ["block/r1"], name="n2"))
    pair("block/r1", "block/r1", "block/r1_dequantized")
    convolution("block/r1_dequantized", "w2", "block/r1", "c2", 0)
    nodes.append(helper.make_node("Relu", ["c2"], ["r2"], name="n4"))
    pair("r2", "r2", "r2_dequantized")
    convolution("r2_dequantized", "w3", "r2", "y_real", 1)
    pair("y_real", "y", "y")
    return _model(nodes, constants)
