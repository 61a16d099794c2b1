"""Files of every format, ours and others', sound and damaged."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.registry import backend
from edgepack.inspection import steps
from edgepack.inspection.facts import FileFacts, InspectionError
from edgepack.inspection.steps import FORMATS
from tests.verify.hubs import float_hub, quantized_hub, weights

# Conv 3x3x3 -> 8, 1x1x8 -> 8, 3x3x8 -> 8, over 12 x 12: worked out by hand.
MACS = 12 * 12 * 8 * (27 + 8 + 72)
WEIGHTS = 8 * (27 + 8 + 72)
LABELS = ("cat", "dog")


def look(path: Path, out: Path) -> FileFacts:
    steps.look(path, out, lambda done, total: None)
    return msgspec.json.decode((out / "facts.json").read_bytes(), type=FileFacts)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """One network in both schemes and all formats, by (suffix, scheme)."""
    folder = tmp_path_factory.mktemp("files")
    found = {}
    for scheme, model in (("fp32", float_hub()), ("w8a8", quantized_hub())):
        hub = folder / f"{scheme}.onnx"
        onnx.save(model, hub)
        for suffix, name in FORMATS.items():
            if suffix != ".mlmodel":
                out = folder / scheme / name
                out.mkdir(parents=True)
                options = WriteOptions(scheme, {"image": "NCHW"}, {"y": "NCHW"}, name="small", licence="MIT", labels=LABELS)
                found[suffix, scheme] = out / backend(name).write(hub, out, options).file
    return found


@pytest.mark.parametrize("scheme", ["fp32", "w8a8"])
@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".mlpackage"])
def test_cost_scheme_labels_and_ports_are_told_alike_in_every_format(
    files: dict[tuple[str, str], Path], suffix: str, scheme: str, tmp_path: Path
) -> None:
    facts = look(files[suffix, scheme], tmp_path)
    assert facts.macs == MACS
    assert facts.quantization.scheme == scheme
    assert facts.labels == LABELS
    layout, shape = ("NHWC", (1, 12, 12, 3)) if suffix == ".tflite" else ("NCHW", (1, 3, 12, 12))
    (image,) = facts.inputs
    assert (image.name, image.dtype, image.layout, image.shape) == ("image", "float32", layout, shape)
    assert facts.outputs[0].name == "y"
    assert facts.findings == ()


@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".mlpackage"])
def test_codes_and_scales_are_those_of_the_hub(files: dict[tuple[str, str], Path], suffix: str, tmp_path: Path) -> None:
    facts = look(files[suffix, "w8a8"], tmp_path)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized_hub().graph.initializer}
    scales = np.concatenate([held[f"{name}/s"] for name in weights()])
    found = facts.quantization
    assert (found.weights, found.per_channel, found.islands, found.real_between) == (3, 3, 1, {})
    assert found.weight_scales == (pytest.approx(scales.min()), pytest.approx(scales.max()))
    # The output's reals are computed from codes too, so TFLite's graph ends in them; every format holds 2^-7 to 2^-5.
    assert found.activation_scales == (2.0**-7, 2.0**-5)
    assert next(group.bytes for group in facts.weights if group.dtype == "int8") >= WEIGHTS


def test_operators_of_a_tflite_file_are_those_litert_sees(files: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    path = files[".tflite", "w8a8"]
    interpreter: Any = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    seen = Counter(row["op_name"] for row in interpreter._get_ops_details())
    facts = look(path, tmp_path)
    assert {held.name: held.count for held in facts.operators} == dict(seen)
    assert all(held.version for held in facts.operators)


def test_a_custom_operator_and_a_second_subgraph_of_another_converter_are_told(files: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromPackedBuf(files[".tflite", "fp32"].read_bytes(), 0)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode, code.version = "FlexErf", 1
    model.operatorCodes.append(code)
    operator = model.subgraphs[0].operators[0]
    operator.opcodeIndex, operator.builtinOptions, operator.builtinOptionsType = len(model.operatorCodes) - 1, None, 0
    model.subgraphs.append(model.subgraphs[0])
    model.signatureDefs = None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "flex.tflite"
    path.write_bytes(builder.Output())
    facts = look(path, tmp_path)
    assert facts.versions["subgraphs"] == "2"
    assert [held.name for held in facts.operators if held.custom] == ["FlexErf"]
    assert [found.level for found in facts.findings if found.where == "FlexErf"] == ["error"]


def test_a_core_ml_neural_network_is_said_to_be_no_ml_program(tmp_path: Path) -> None:
    from edgepack.mil.environment import coremltools

    ct = coremltools()
    from coremltools.models import datatypes
    from coremltools.models.neural_network import NeuralNetworkBuilder

    ports = [("x", datatypes.Array(3, 8, 8))], [("y", datatypes.Array(3, 8, 8))]
    builder = NeuralNetworkBuilder(*ports, disable_rank5_shape_mapping=True)
    builder.add_activation("relu", "RELU", "x", "y")
    ct.utils.save_spec(builder.spec, str(tmp_path / "old.mlmodel"))
    facts = look(tmp_path / "old.mlmodel", tmp_path)
    assert facts.format == "Core ML neuralNetwork"
    assert [(held.name, held.count) for held in facts.operators] == [("activation", 1)]
    assert "not an ML Program" in facts.findings[0].message


def test_image_features_and_lookup_tables_of_a_core_ml_package_are_told(tmp_path: Path) -> None:
    from edgepack.mil.environment import coremltools

    ct = coremltools()
    from coremltools.converters.mil.mil import Builder

    indices = np.arange(16, dtype=np.uint8).reshape(4, 4, 1, 1) % 4

    @Builder.program(input_specs=[Builder.TensorSpec(shape=(1, 4, 6, 6))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        from coremltools.converters.mil.mil import types

        table = np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 1, 1, 1, 4, 1)
        weight = Builder.constexpr_lut_to_dense(indices=indices.astype(types.nptype_from_builtin(types.uint2)), lut=table)
        return Builder.conv(x=x, weight=weight, name="y")

    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    spec = model.get_spec()
    feature = spec.description.input[0].type
    feature.imageType.width, feature.imageType.height, feature.imageType.colorSpace = 6, 6, 20
    ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True).save(str(tmp_path / "lut.mlpackage"))
    facts = look(tmp_path / "lut.mlpackage", tmp_path)
    assert (facts.inputs[0].dtype, facts.inputs[0].shape, facts.inputs[0].note) == ("image", (6, 6), "RGB")
    assert facts.versions["iOS"] == "18 or newer"
    assert "lut2" in {group.dtype for group in facts.weights}
    assert facts.macs == 6 * 6 * 4 * 4


def test_missing_external_data_is_an_error_that_names_the_file_and_the_rest_is_told(tmp_path: Path) -> None:
    onnx.save(float_hub(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    whole = look(tmp_path / "m.onnx", tmp_path)
    assert whole.findings == ()
    assert whole.bytes == sum((tmp_path / name).stat().st_size for name in ("m.onnx", "w.bin"))
    (tmp_path / "w.bin").unlink()
    facts = look(tmp_path / "m.onnx", tmp_path)
    assert facts.macs == MACS
    assert [(found.level, found.where) for found in facts.findings] == [("error", "w.bin")]


def test_symbolic_sizes_are_shown_and_count_as_one(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 5))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 7))],
        [numpy_helper.from_array(np.ones((5, 7), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), tmp_path / "m.onnx")
    facts = look(tmp_path / "m.onnx", tmp_path)
    assert facts.inputs[0].shape == ("N", 5)
    assert facts.macs == 35


def _halved(path: Path, tmp_path: Path) -> Path:
    cut = tmp_path / f"cut{path.suffix}"
    if path.is_dir():
        shutil.copytree(path, cut)
        held = cut / "Data" / "com.apple.CoreML" / "model.mlmodel"
        held.write_bytes(held.read_bytes()[: held.stat().st_size // 2])
    else:
        cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return cut


@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".mlpackage"])
def test_a_file_that_is_cut_off_is_refused_in_one_line(files: dict[tuple[str, str], Path], suffix: str, tmp_path: Path) -> None:
    with pytest.raises(InspectionError) as caught:
        look(_halved(files[suffix, "fp32"], tmp_path), tmp_path)
    assert f"cut{suffix}" in caught.value.cause
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x20\0\0\0TFL3" + b"\xff" * 400, bytes(1000)])
@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".mlmodel"])
def test_a_file_of_something_else_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"odd{suffix}"
    path.write_bytes(content)
    with pytest.raises(InspectionError):
        look(path, tmp_path)


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InspectionError, match="does not exist"):
        look(tmp_path / "absent.tflite", tmp_path)
