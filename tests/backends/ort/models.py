"""Small hubs in ONNX's own terms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SHAPE = [1, 3, 8, 8]


def save(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]], batch: int | str = 1) -> Path:
    """A model x -> y over images."""
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape]) for name, shape in (("x", [3, 8, 8]), ("y", [4, 8, 8])))
    graph = helper.make_graph(nodes, "images", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("of.nobody", 1)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def weights() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)


def real_conv(path: Path, batch: int | str = 1) -> Path:
    """Conv with bias, in float."""
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv", pads=[1, 1, 1, 1])
    # A subnormal, an odd NaN pattern and -0.0 are what a writer that computes with weights would not keep.
    bias = np.array([0x00000001, 0x7FC12345, 0x80000000, 0x3F800000], np.uint32).view(np.float32)
    return save(path, [node], {"w": weights(), "b": bias}, batch)


def quantized_conv(path: Path, relu_zero_point: int) -> Path:
    """x -> Q/DQ -> Conv -> Relu -> Q/DQ -> y, the Relu's codes with a zero point of choice."""
    nodes, constants = _pair("x", "xr", 0.02, 128)
    codes = np.clip(np.rint(weights() / 0.03), -127, 127).astype(np.int8)
    constants |= {"w_codes": codes, "w_scale": np.full(4, 0.03, np.float32), "w_zero": np.zeros(4, np.int8)}
    nodes.append(helper.make_node("DequantizeLinear", ["w_codes", "w_scale", "w_zero"], ["w"], axis=0, name="w_real"))
    constants |= {"b_codes": np.arange(4, dtype=np.int32), "b_scale": np.full(4, 0.02 * 0.03, np.float32), "b_zero": np.zeros(4, np.int32)}
    nodes.append(helper.make_node("DequantizeLinear", ["b_codes", "b_scale", "b_zero"], ["b"], axis=0, name="b_real"))
    nodes.append(helper.make_node("Conv", ["xr", "w", "b"], ["c"], name="conv_1", pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Relu", ["c"], ["r"], name="relu_1"))
    tail, held = _pair("r", "y", 0.05, relu_zero_point)
    return save(path, nodes + tail, constants | held)


def conv_into_real(path: Path) -> Path:
    """``quantized_conv`` whose result is read as a real number: no integer kernel fits."""
    model = onnx.load(quantized_conv(path, 0))
    nodes = [node for node in model.graph.node if not node.name.startswith("r_")]
    nodes[-1].output[0] = "y"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    return path


def unknown_operator(path: Path) -> Path:
    """A node of a domain that no runtime knows."""
    constants = {"w": weights()}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Wavelet", ["c"], ["y"], name="wave_7", domain="of.nobody"),
    ]
    return save(path, nodes, constants)


def _pair(source: str, result: str, scale: float, zero_point: int) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    reads = [f"{source}_scale", f"{source}_zero"]
    nodes = [
        helper.make_node("QuantizeLinear", [source, *reads], [f"{source}_codes"], name=f"{source}_q"),
        helper.make_node("DequantizeLinear", [f"{source}_codes", *reads], [result], name=f"{source}_dq"),
    ]
    return nodes, {reads[0]: np.array(scale, np.float32), reads[1]: np.array(zero_point, np.uint8)}
