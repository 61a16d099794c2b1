"""The same codes everywhere: what the .tflite and the .mlpackage of the demo hold, decoded by readers that share no code with the writers,
equals the quantized hub's initializers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tests.system.program import ROOT

Array = np.ndarray


def _encodings(hub: Path) -> tuple[dict[str, tuple[Array, Array]], dict[str, tuple[float, int]]]:
    """(constant name -> codes and scale, activation name -> scale and zero point) read from the Q/DQ nodes of the hub."""
    model = onnx.load(hub)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    constants = {node.input[0]: (held[node.input[0]], held[node.input[1]]) for node in model.graph.node if _is(node, held, "Dequantize")}
    activations = {
        node.output[0]: (held[node.input[1]].item(), held[node.input[2]].item())
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }
    return constants, activations


def _is(node: onnx.NodeProto, held: dict[str, Array], prefix: str) -> bool:
    return node.op_type == f"{prefix}Linear" and node.input[0] in held


def test_the_tflite_holds_the_hubs_codes_scales_and_zero_points(digits_pack: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    content = (digits_pack / "android" / "w8a8" / "model.tflite").read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    tensors = {graph.Tensors(index).Name().decode(): graph.Tensors(index) for index in range(graph.TensorsLength())}
    constants, activations = _encodings(digits_pack / "hub" / "w8a8.onnx")
    assert len(constants) == 12
    for name, (codes, scale) in constants.items():
        quantization = tensors[name].Quantization()
        stored = model.Buffers(tensors[name].Buffer()).DataAsNumpy().view(codes.dtype)
        np.testing.assert_array_equal(stored, _as_tflite(codes, tensors[name].ShapeAsNumpy().tolist()).reshape(-1), err_msg=name)
        np.testing.assert_array_equal(quantization.ScaleAsNumpy(), scale, err_msg=name)
        assert not quantization.ZeroPointAsNumpy().any()
    for name, (scale, zero_point) in activations.items():
        quantization = tensors[name].Quantization()
        assert quantization.ScaleAsNumpy().tolist() == [scale], name
        assert quantization.ZeroPointAsNumpy().tolist() == [zero_point - 128], name


def _as_tflite(codes: Array, shape: list[int]) -> Array:
    """ONNX (O, I, H, W) as the file's shape says: (O, H, W, I), or (1, H, W, O) of a depthwise convolution."""
    if codes.ndim != 4:
        return codes
    arranged = codes.transpose(1, 2, 3, 0) if shape[0] == 1 else codes.transpose(0, 2, 3, 1)
    assert list(arranged.shape) == shape
    return arranged


def test_the_reloaded_mlpackage_holds_the_hubs_codes_scales_and_zero_points(digits_pack: Path) -> None:
    """In a process of its own: coremltools and LiteRT do not share one."""
    package, hub = digits_pack / "ios" / "w8a8" / "model.mlpackage", digits_pack / "hub" / "w8a8.onnx"
    code = f"from tests.system.test_codes import compare_package; compare_package({str(package)!r}, {str(hub)!r})"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def compare_package(package: str, hub: str) -> None:
    """Every int8 weight with its scale, and every activation's scale and zero point, as multisets: names differ, contents may not."""
    from tests.backends.coreml.blobs import Decoded

    operations = list(Decoded(Path(package)).operations.values())
    constants, activations = _encodings(Path(hub))
    weights = {(codes.tobytes(), scale.tobytes()) for codes, scale in constants.values() if codes.dtype == np.int8}
    stored = {
        (held["quantized_data"].tobytes(), np.asarray(held["scale"], np.float32).tobytes())
        for kind, held in operations
        if kind == "constexpr_affine_dequantize"
    }
    assert len(weights) == 6
    assert stored == weights
    quantized = sorted((float(held["scale"]), int(held["zero_point"])) for kind, held in operations if kind == "quantize")
    assert quantized == sorted(activations.values())
