"""A student that was quantized by onnxruntime keeps every code on its way through three backends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.registry import backend
from edgepack.hub.canonical import canonicalize
from edgepack.quantize.adopt import adopt
from edgepack.quantize.constraints import Constraints, Demands, QuantizeError
from edgepack.quantize.fold import encoding_of, fold
from tests.quantize.graphs import SHAPE, convolution, decoder, run_all, samples, squeeze_excite

KINDS = ("QInt8", "QUInt8")


def _by_onnxruntime(model: ir.Model, folder: Path, activations: str, per_channel: bool = True) -> onnx.ModelProto:
    """onnxruntime's own static quantization, QDQ format, int8 weights."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rows: Iterator[np.ndarray] = iter(samples().arrays["x"])

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self._rows, None)
            return None if row is None else {"x": row}

    onnx.save(ir.to_proto(model), folder / "float.onnx")
    kinds = {"activation_type": QuantType[activations], "weight_type": QuantType.QInt8, "per_channel": per_channel}
    quantize_static(folder / "float.onnx", folder / "codes.onnx", Reader(), quant_format=QuantFormat.QDQ, **kinds)
    return onnx.load(folder / "codes.onnx")


def _adopted(student: onnx.ModelProto, demands: Demands | None = None) -> tuple[ir.Model, Constraints]:
    model = canonicalize(student, {"x": samples(1).arrays["x"][0]}).model
    return adopt(model, demands or Demands())


def _constants(student: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in student.graph.initializer}


def _weight_codes(student: onnx.ModelProto) -> list[np.ndarray]:
    """int8 weights of the student as onnxruntime wrote them, in node order."""
    held, made = _constants(student), {node.output[0]: node for node in student.graph.node}
    linear = [node for node in student.graph.node if node.op_type in ("Conv", "Gemm", "ConvTranspose")]
    return [held[made[node.input[1]].input[0]] for node in linear]


@pytest.mark.parametrize("activations", KINDS)
@pytest.mark.parametrize("build", [convolution, squeeze_excite, decoder])
def test_the_adopted_hub_computes_what_the_student_computes_bit_for_bit(build: Any, activations: str, tmp_path: Path) -> None:
    student = _by_onnxruntime(build(), tmp_path, activations)
    adopted, constraints = _adopted(student)
    onnx.checker.check_model(ir.to_proto(adopted), full_check=True)
    assert constraints.adopted
    data = samples(4, seed=3)
    np.testing.assert_array_equal(run_all(adopted, data), run_all(ir.from_proto(student), data))


@pytest.mark.parametrize("activations", KINDS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_codes_scales_and_zero_points_are_the_students(activations: str, per_channel: bool, tmp_path: Path) -> None:
    student = _by_onnxruntime(convolution(), tmp_path, activations, per_channel)
    adopted, constraints = _adopted(student)
    held = _constants(student)
    shift = 128 if activations == "QInt8" else 0
    pairs = {node.input[0]: node for node in student.graph.node if node.op_type == "QuantizeLinear"}
    assert set(constraints.activations) == set(pairs)
    for name, encoding in constraints.activations.items():
        assert np.float32(encoding.scale) == held[pairs[name].input[1]]
        assert encoding.zero_point == int(held[pairs[name].input[2]]) + shift
    linear = [node for node in adopted.graph if node.op_type in ("Conv", "Gemm")]
    for node, codes in zip(linear, _weight_codes(student), strict=True):
        np.testing.assert_array_equal(node.inputs[1].producer().inputs[0].const_value.numpy(), codes)
        encoding = encoding_of(node.inputs[1].producer())
        assert (encoding.axis, encoding.scale.shape) == (0, (codes.shape[0],))
    integer = fold(adopted, lambda a, b: "Relu" if b.op_type == "Relu" else None).operations
    assert {operation.op_type for operation in integer if operation.outputs[0].encoding} >= {"Conv", "MaxPool", "Add", "Gemm"}


@pytest.mark.parametrize("activations", KINDS)
def test_every_backend_holds_the_students_weight_codes(activations: str, tmp_path: Path) -> None:
    student = _by_onnxruntime(convolution(), tmp_path, activations)
    adopted, _ = _adopted(student, Demands("float16", targets=("ios",)))
    onnx.save(ir.to_proto(adopted), tmp_path / "hub.onnx")
    wanted = sorted(np.sort(codes.reshape(-1)).tolist() for codes in _weight_codes(student))
    layouts = {"x": "NCHW"}
    for name, read in (("ort", _ort_codes), ("tflite", _tflite_codes), ("coreml", _coreml_codes)):
        out = tmp_path / name
        out.mkdir()
        described = backend(name).write(tmp_path / "hub.onnx", out, WriteOptions("w8a8", layouts))
        assert sorted(np.sort(codes.reshape(-1)).tolist() for codes in read(out / described.file)) == wanted, name


def _ort_codes(path: Path) -> list[np.ndarray]:
    return [array for array in _constants(onnx.load(path)).values() if array.dtype == np.int8 and array.ndim > 1]


def _tflite_codes(path: Path) -> list[np.ndarray]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    held = [tensor for tensor in model.subgraphs[0].tensors if tensor.type == schema.TensorType.INT8 and len(tensor.shape) > 1]
    buffers = [(tensor, model.buffers[tensor.buffer].data) for tensor in held]
    return [np.frombuffer(bytes(data), np.int8).reshape(tensor.shape) for tensor, data in buffers if data is not None and len(data)]


def _coreml_codes(path: Path) -> list[np.ndarray]:
    from edgepack.mil.program import read_function

    expanded = [operation for operation in read_function(path).operations if operation.op_type == "constexpr_affine_dequantize"]
    held = [np.asarray(operation.inputs["quantized_data"].val) for operation in expanded]
    return [array for array in held if array.dtype == np.int8 and array.ndim > 1]


def test_fp16_demands_round_scales_and_leave_weight_codes_alone(tmp_path: Path) -> None:
    student = _by_onnxruntime(convolution(), tmp_path, "QUInt8")
    adopted, _ = _adopted(student, Demands("float16", targets=("ios",)))
    linear = [node for node in adopted.graph if node.op_type in ("Conv", "Gemm")]
    for node, codes in zip(linear, _weight_codes(student), strict=True):
        np.testing.assert_array_equal(node.inputs[1].producer().inputs[0].const_value.numpy(), codes)
    for node in adopted.graph:
        if node.op_type == "QuantizeLinear":
            scale = encoding_of(node).scale
            assert scale == scale.astype(np.float16).astype(np.float32)


def _pair(graph: list[onnx.NodeProto], source: str, target: str, scale: str, zero: str) -> None:
    graph += [
        helper.make_node("QuantizeLinear", [source, scale, zero], [f"{target}_q"], name=f"Q_{target}"),
        helper.make_node("DequantizeLinear", [f"{target}_q", scale, zero], [target], name=f"DQ_{target}"),
    ]


def _hand_made(changes: dict[str, np.ndarray] | None = None, extra: list[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    """x -> pair -> Conv 1x1 (weights by DequantizeLinear) -> pair -> y."""
    held = {
        "s": np.float32(0.02), "z": np.uint8(128), "t": np.float32(0.05), "zt": np.uint8(100),
        "w": np.arange(-6, 6, dtype=np.int8).reshape(4, 3, 1, 1), "ws": np.full(4, 0.1, np.float32), "wz": np.zeros(4, np.int8),
    }  # fmt: skip
    held |= changes or {}
    nodes: list[onnx.NodeProto] = []
    _pair(nodes, "x", "xr", "s", "z")
    axis = {} if held["ws"].ndim == 0 else {"axis": 1 if len(held["ws"]) == 3 else 0}
    nodes += [helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wr"], name="DQ_w", **axis)]
    nodes += [helper.make_node("Conv", ["xr", "wr"], ["c"], name="conv")]
    nodes += extra or []
    _pair(nodes, "c", "y", "t", "zt")
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, 4, 8, 8))],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_weights_in_uint8_around_128_become_int8() -> None:
    codes = np.arange(122, 134, dtype=np.uint8).reshape(4, 3, 1, 1)
    student = _hand_made({"w": codes, "wz": np.full(4, 128, np.uint8)})
    adopted, _ = _adopted(student)
    (conv,) = [node for node in adopted.graph if node.op_type == "Conv"]
    np.testing.assert_array_equal(conv.inputs[1].producer().inputs[0].const_value.numpy(), codes.astype(int) - 128)
    data = samples(2)
    np.testing.assert_array_equal(run_all(adopted, data), run_all(ir.from_proto(student), data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"w": np.full((4, 3, 1, 1), -128, np.int8)}, "weights of Conv 'conv' hold the code -128"),
        ({"wz": np.full(4, 3, np.int8)}, "weights of Conv 'conv' are not symmetric"),
        ({"ws": np.full(3, 0.1, np.float32), "wz": np.zeros(3, np.int8)}, "along axis 1, not along output channels"),
        ({"z": np.uint16(128)}, "writes uint16 codes"),
    ],
)
def test_what_the_targets_cannot_hold_is_refused_with_the_nodes_name(changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(QuantizeError, match=message):
        _adopted(_hand_made(changes))


def test_a_join_of_unequal_scales_computes_in_float_from_codes_to_codes_and_is_named(tmp_path: Path) -> None:
    """onnxruntime gives each input of a Concat its own scale: the adopted hub says the same numbers, and which node they cost."""
    student = _by_onnxruntime(decoder(), tmp_path, "QUInt8")
    adopted, constraints = _adopted(student)
    reasons = {name: reason for name, reason in constraints.real.items() if "unequal scales" in reason}
    joins = [node.name for node in student.graph.node if node.op_type == "Concat"]
    assert any(name in reasons for name in joins)
    assert all(node.metadata_props["edgepack.placement"] == "real" for node in adopted.graph if node.name in reasons)


def test_a_student_that_quantizes_weights_only_is_refused() -> None:
    student = _hand_made()
    kept = [node for node in student.graph.node if node.op_type == "Conv" or node.name == "DQ_w"]
    del student.graph.node[:]
    kept[1].input[0], kept[1].output[0] = "x", "y"
    student.graph.node.extend(kept)
    with pytest.raises(QuantizeError, match="weights only"):
        _adopted(student)


def test_a_build_of_a_student_with_codes_needs_no_calibration_and_refuses_other_schemes_before_any_work(tmp_path: Path) -> None:
    from edgepack import build
    from edgepack.errors import InputError

    student = str(tmp_path / "student.onnx")
    onnx.save(_by_onnxruntime(convolution(), tmp_path, "QInt8"), student)
    for scheme in ("fp32", "w8"):
        with pytest.raises(InputError, match=f"carries codes of its own, which scheme {scheme} cannot keep"):
            build(student, tmp_path / "pack", targets=["android"], schemes=[scheme], latency="none")
    pack = build(student, tmp_path / "pack", targets=["raspberry-pi-5"], latency="none")
    (artifact,) = pack.artifacts
    assert (artifact.scheme, artifact.failures) == ("w8a8", ())
    assert any("nothing was quantized anew" in note for hub in pack.hubs for note in hub.notes)


def test_a_module_quantized_in_torch_exports_its_codes_and_runs_in_float64(tmp_path: Path) -> None:
    """The form torch.ao's and torchao's PT2E conversion leaves: quantized_decomposed operators around float ones, weights as codes."""
    import torch
    from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers the operators

    from edgepack.student.program import Student

    operators = torch.ops.quantized_decomposed

    class Quantized(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            draw = torch.Generator().manual_seed(0)
            self.register_buffer("codes", torch.randint(-127, 128, (8, 3, 3, 3), generator=draw, dtype=torch.int8))
            self.register_buffer("scales", torch.rand(8, generator=draw) * 0.01 + 0.001)
            self.register_buffer("zeros", torch.zeros(8, dtype=torch.int64))

        def through(self, x: torch.Tensor, scale: float, zero_point: int) -> torch.Tensor:
            codes = operators.quantize_per_tensor(x, scale, zero_point, -128, 127, torch.int8)
            return operators.dequantize_per_tensor(codes, scale, zero_point, -128, 127, torch.int8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = operators.dequantize_per_channel(self.codes, self.scales, self.zeros, 0, -127, 127, torch.int8)
            return self.through(torch.relu(torch.nn.functional.conv2d(self.through(x, 0.01, -3), weight)), 0.05, -128)

    module = Quantized().eval()
    feed = {"x": samples(1).arrays["x"][0]}
    student = Student(module, (torch.from_numpy(feed["x"]),), inputs=("x",), outputs=("y",))
    exact, plain = student.program.run_float64(feed)["y"], student.program.run(feed)["y"]
    assert exact.dtype == np.float64 and np.abs(exact - plain).max() <= 0.05 + 1e-6 and np.mean(np.abs(exact - plain) > 1e-6) < 0.01
    student.program.capture(tmp_path / "captured.onnx")
    adopted, constraints = adopt(canonicalize(onnx.load(tmp_path / "captured.onnx"), feed).model, Demands())
    assert sorted(encoding.zero_point for encoding in constraints.activations.values()) == [0, 125]
    (conv,) = [held for held in adopted.graph if held.op_type == "Conv"]
    np.testing.assert_array_equal(conv.inputs[1].producer().inputs[0].const_value.numpy(), module.codes.numpy())
