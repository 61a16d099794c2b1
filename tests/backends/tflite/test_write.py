"""The file itself: names, codes, alignment, versions, refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.table import BackendError
from edgepack.backends.tflite import lint, obstacles, write
from tests.backends.tflite.models import Hub, both, convert, dynamic, node, operators, read_file, run_litert, run_ort, single
from tests.backends.tflite.qdq_models import SOFTMAX, Codes, Quantized, pair


def normal(rng: np.random.Generator, *shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


def quantized_cnn(rng: np.random.Generator) -> Hub:
    """conv+relu, depthwise+relu6, residual add, max pool, flatten, linear, softmax: every scale another."""
    nodes: list[onnx.NodeProto] = []
    held: dict[str, Any] = {"low": np.float32(0), "high": np.float32(6)}
    weights = {"w0": (normal(rng, 8, 3, 3, 3), 8), "w1": (normal(rng, 8, 1, 3, 3), 8), "w2": (normal(rng, 10, 8 * 4 * 3) / 3, 10)}
    scales = {"w0": 0.02, "w1": 0.021, "w2": 0.022}
    inputs = {"w0": 0.027, "w1": 0.031, "w2": 0.047}
    for name, (weight, channels) in weights.items():
        scale = (np.abs(weight).reshape(channels, -1).max(1) / 127).astype(np.float32)
        codes = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
        del scales[name]
        bias_scale = (np.float32(inputs[name]) * scale).astype(np.float32)
        held |= {f"{name}_c": codes, f"{name}_s": scale, f"{name}_z": np.zeros(channels, np.int8)}
        held |= {f"{name}_bc": rng.integers(-900, 900, channels).astype(np.int32), f"{name}_bs": bias_scale}
        nodes.append(node("DequantizeLinear", f"{name}_c {name}_s {name}_z", name, f"{name}_dq", axis=0))
        nodes.append(node("DequantizeLinear", f"{name}_bc {name}_bs", f"{name}_b", f"{name}_b_dq", axis=0))
    pair(nodes, held, "x", Codes(0.027, 127))
    nodes += [node("Conv", "x_dq w0 w0_b", "c0", "conv0", pads=[1, 1, 1, 1], strides=[2, 2]), node("Relu", "c0", "r0", "relu0")]
    pair(nodes, held, "r0", Codes(0.031, 0))
    nodes += [node("Conv", "r0_dq w1 w1_b", "c1", "conv1", pads=[1, 1, 1, 1], group=8), node("Clip", "c1 low high", "r1", "relu6")]
    pair(nodes, held, "r1", Codes(6 / 255, 0))
    nodes.append(node("Add", "r1_dq r0_dq", "s", "residual"))
    pair(nodes, held, "s", Codes(0.047, 3))
    nodes.append(node("MaxPool", "s_dq", "p", "pool", kernel_shape=[2, 2], strides=[1, 1]))
    pair(nodes, held, "p", Codes(0.047, 3))
    nodes.append(node("Flatten", "p_dq", "f", "flatten"))
    pair(nodes, held, "f", Codes(0.047, 3))
    nodes.append(node("Gemm", "f_dq w2 w2_b", "g", "fc", transB=1))
    pair(nodes, held, "g", Codes(0.19, 128))
    nodes.append(node("Softmax", "g_dq", "o", "softmax"))
    pair(nodes, held, "o", SOFTMAX, "y")
    return Hub(nodes, {"x": normal(rng, 1, 3, 10, 8)}, held)


def test_quantized_cnn_is_integer_up_to_its_softmax_and_within_a_step_of_onnxruntime(rng: np.random.Generator, tmp_path: Path) -> None:
    ours, reference = both(quantized_cnn(rng), tmp_path, "w8a8")
    assert operators(tmp_path) == [
        "QUANTIZE",
        "PAD",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "ADD",
        "MAX_POOL_2D",
        "RESHAPE",
        "FULLY_CONNECTED",
        "DEQUANTIZE",
        "SOFTMAX",
        "QUANTIZE",
        "DEQUANTIZE",
    ]
    assert np.abs(ours["y"] - reference["y"]).max() <= 1 / 256 + 1e-6
    assert lint(tmp_path / "model.tflite") == []


def test_every_code_scale_and_zero_point_in_the_file_is_the_hubs(rng: np.random.Generator, tmp_path: Path) -> None:
    convert(quantized_cnn(rng), tmp_path, "w8a8")
    hub = onnx.load(tmp_path / "hub.onnx")
    held = {item.name: numpy_helper.to_array(item) for item in hub.graph.initializer}
    model = read_file(tmp_path / "model.tflite")
    tensors = {tensor.name.decode(): tensor for tensor in model.subgraphs[0].tensors}
    arranged = {"w0": (0, 2, 3, 1), "w1": (1, 2, 3, 0), "w2": None}
    for name, order in arranged.items():
        weight, bias = tensors[f"{name}_c"], tensors[f"{name}_bc"]
        codes = held[f"{name}_c"]
        # The linear layer reads a channels-last image: its columns (C, H, W) become (H, W, C).
        expected = codes.transpose(order) if order else codes.reshape(10, 8, 4, 3).transpose(0, 2, 3, 1).reshape(10, 96)
        stored = np.frombuffer(bytes(model.buffers[weight.buffer].data), np.int8).reshape(weight.shape)
        np.testing.assert_array_equal(stored, expected)
        np.testing.assert_array_equal(weight.quantization.scale, held[f"{name}_s"])
        assert not np.any(weight.quantization.zeroPoint) and weight.quantization.quantizedDimension == (3 if name == "w1" else 0)
        np.testing.assert_array_equal(np.frombuffer(bytes(model.buffers[bias.buffer].data), np.int32), held[f"{name}_bc"])
        np.testing.assert_array_equal(bias.quantization.scale, held[f"{name}_bs"])
    for name in ("x", "r0", "r1", "s", "p", "f", "g", "o"):
        quantization = tensors[f"{name}_q"].quantization
        np.testing.assert_array_equal(quantization.scale, held[f"{name}_scale"])
        np.testing.assert_array_equal(quantization.zeroPoint, held[f"{name}_zero"].astype(np.int64) - 128)


def test_fused_activations_leave_no_operator_of_their_own(rng: np.random.Generator, tmp_path: Path) -> None:
    bounds = {"low": np.float32(-1), "high": np.float32(1), "w": normal(rng, 4, 3, 1, 1)}
    nodes = [
        node("Conv", "x w", "c", "conv"),
        node("Clip", "c low high", "l", "clip"),
        node("Add", "l l", "a", "add"),
        node("Relu", "a", "y", "relu"),
    ]
    ours, reference = both(Hub(nodes, {"x": normal(rng, 1, 3, 4, 4)}, bounds), tmp_path)
    assert operators(tmp_path) == ["CONV_2D", "ADD"]
    np.testing.assert_allclose(ours["y"], reference["y"], rtol=1e-5, atol=1e-6)


def test_an_activation_with_a_second_reader_is_not_fused(rng: np.random.Generator, tmp_path: Path) -> None:
    nodes = [node("Add", "x x", "a", "add"), node("Relu", "a", "r", "relu"), node("Sub", "a r", "y", "sub")]
    ours, reference = both(Hub(nodes, {"x": normal(rng, 2, 3)}, {}), tmp_path)
    np.testing.assert_allclose(ours["y"], reference["y"], rtol=1e-6)


def test_signature_carries_the_students_names_and_layouts(rng: np.random.Generator, tmp_path: Path) -> None:
    nodes = [node("Conv", "photo w", "map", "conv"), node("ReduceMean", "map axes", "score", "mean", keepdims=0)]
    weights = {"w": normal(rng, 4, 3, 1, 1), "axes": np.asarray([2, 3], np.int64)}
    hub = Hub(nodes, {"photo": normal(rng, 1, 3, 6, 5)}, weights, {"score": np.float32, "map": np.float32})
    description = convert(hub, tmp_path)
    (signature,) = read_file(tmp_path / "model.tflite").signatureDefs
    assert signature.signatureKey == b"serving_default"
    assert [entry.name for entry in signature.inputs] == [b"photo"]
    assert [entry.name for entry in signature.outputs] == [b"score", b"map"]
    assert description.inputs[0].shape == (1, 6, 5, 3) and description.inputs[0].permutation == (0, 2, 3, 1)
    assert description.outputs[1].shape == (1, 6, 5, 4) and description.outputs[0].permutation == ()
    ours, reference = run_litert(description, tmp_path, hub.feed), run_ort(tmp_path, hub.feed)
    for name in reference:
        np.testing.assert_allclose(ours[name], reference[name], rtol=1e-5, atol=1e-5)


def test_an_output_that_is_an_input_or_another_output_gets_a_tensor_of_its_own(rng: np.random.Generator, tmp_path: Path) -> None:
    nodes = [node("Identity", "x", "y"), node("Relu", "x", "z"), node("Identity", "z", "again", "copy")]
    outputs = {"y": np.float32, "z": np.float32, "again": np.float32}
    ours, reference = both(Hub(nodes, {"x": normal(rng, 2, 3)}, {}, outputs), tmp_path)
    for name in outputs:
        np.testing.assert_array_equal(ours[name], reference[name])


def test_integer_ends_become_int32(tmp_path: Path) -> None:
    hub = Hub([node("Add", "x one")], {"x": np.asarray([[3, -4]], np.int64)}, {"one": np.asarray(1, np.int64)}, {"y": np.int64})
    description = convert(hub, tmp_path)
    assert description.inputs[0].dtype == description.outputs[0].dtype == "int32"
    np.testing.assert_array_equal(run_litert(description, tmp_path, hub.feed)["y"], [[4, -3]])


def test_weights_start_on_sixteen_byte_boundaries(rng: np.random.Generator, tmp_path: Path) -> None:
    convert(quantized_cnn(rng), tmp_path, "w8a8")
    content = (tmp_path / "model.tflite").read_bytes()
    held = numpy_helper.to_array(next(i for i in onnx.load(tmp_path / "hub.onnx").graph.initializer if i.name == "w0_c"))
    start = content.index(np.ascontiguousarray(held.transpose(0, 2, 3, 1)).tobytes())
    assert start % 16 == 0


def test_equal_weights_are_stored_once_and_equal_hubs_give_equal_bytes(rng: np.random.Generator, tmp_path: Path) -> None:
    weight = normal(rng, 64, 64)
    nodes = [node("MatMul", "x a", "h", "first"), node("MatMul", "h b", "y", "second")]
    hub = Hub(nodes, {"x": normal(rng, 1, 64)}, {"a": weight, "b": weight.copy()})
    convert(hub, tmp_path)
    first = (tmp_path / "model.tflite").read_bytes()
    convert(hub, tmp_path)
    assert (tmp_path / "model.tflite").read_bytes() == first
    assert len(first) < 1.5 * weight.nbytes


@pytest.mark.parametrize(("scheme", "ratio", "tolerance"), [("fp16", 0.6, 1e-2), ("fp32", 1.1, 1e-4)])
def test_float_schemes_keep_their_size_and_numbers(
    scheme: str, ratio: float, tolerance: float, rng: np.random.Generator, tmp_path: Path
) -> None:
    hub = single("Conv", normal(rng, 1, 32, 6, 6), weights={"w": normal(rng, 64, 32, 3, 3) / 16, "b": normal(rng, 64)})
    ours, reference = both(hub, tmp_path, scheme)
    np.testing.assert_allclose(ours["y"], reference["y"], atol=tolerance)
    assert (tmp_path / "model.tflite").stat().st_size < ratio * hub.initializers["w"].nbytes + 4096


@pytest.mark.parametrize(("scheme", "tolerance"), [("w8", 1e-4), ("w8d8", 0.15)])
def test_weight_codes_serve_float_activations(scheme: str, tolerance: float, rng: np.random.Generator, tmp_path: Path) -> None:
    weight = normal(rng, 48, 64) / 8
    scale = (np.abs(weight).max(1) / 127).astype(np.float32)
    held = {"c": np.rint(weight / scale[:, None]).astype(np.int8), "s": scale, "z": np.zeros(48, np.int8), "b": normal(rng, 48)}
    product = node("Gemm", "x w b", "y", "fc", transB=1)
    nodes = [node("DequantizeLinear", "c s z", "w", "dq", axis=0), dynamic(product) if scheme == "w8d8" else product]
    ours, reference = both(Hub(nodes, {"x": normal(rng, 3, 64)}, held), tmp_path, scheme)
    np.testing.assert_allclose(ours["y"], reference["y"], atol=tolerance)
    assert operators(tmp_path) == (["FULLY_CONNECTED"] if scheme == "w8d8" else ["DEQUANTIZE", "FULLY_CONNECTED"])
    assert lint(tmp_path / "model.tflite") == []


def suppression(rng: np.random.Generator, overlap: float, keep: int = 3) -> Hub:
    weights = {"keep": np.asarray([keep], np.int64), "overlap": np.asarray([overlap], np.float32)}
    feed = {"boxes": normal(rng, 1, 6, 4), "scores": normal(rng, 1, 2, 6)}
    return Hub([node("NonMaxSuppression", "boxes scores keep overlap")], feed, weights, shape=(4, 3))


def sliced_at_run_time(image: Any) -> Hub:
    return Hub([node("Slice", "x s e")], {"x": image, "s": np.asarray([0]), "e": np.asarray([1])}, {}, shape=image.shape)


def refusals(rng: np.random.Generator) -> dict[str, tuple[Hub, str, str]]:
    """Name -> hub, scheme, what the message must say."""
    image = normal(rng, 1, 3, 8, 8)
    held, other = Codes(0.02, 120), Codes(0.021, 120)
    weight = normal(rng, 4, 3, 1, 1)
    odd_bias = Quantized("Conv", [image], [held], held, weight=weight, bias=normal(rng, 4)).hub()
    odd_bias.initializers["b_scale"] = odd_bias.initializers["b_scale"] * np.float32(1.01)
    low_code = Quantized("Conv", [image], [held], held, weight=weight).hub()
    low_code.initializers["w_codes"][0, 0] = -128
    return {
        "unknown operator": (single("Hardmax", image), "fp32", "Hardmax"),
        "window in the padding": (single("MaxPool", image, kernel_shape=[1, 1], pads=[1, 1, 1, 1]), "fp32", "padding alone"),
        "sparse SAME": (single("MaxPool", image, kernel_shape=[1, 1], strides=[3, 3], auto_pad="SAME_UPPER"), "fp32", "auto_pad"),
        "overlap of 1": (suppression(rng, 1.0), "fp32", "iou_threshold"),
        "no detections": (suppression(rng, 0.5, keep=0), "fp32", "nothing is ever selected"),
        "slice at run time": (sliced_at_run_time(image), "fp32", "run time"),
        "max pool rescaling": (Quantized("MaxPool", [image], [held], other, {"kernel_shape": [2, 2]}).hub(), "w8a8", "different scales"),
        "average pool rescaling": (
            Quantized("AveragePool", [image], [held], other, {"kernel_shape": [2, 2]}).hub(),
            "w8a8",
            "different scales",
        ),
        "concat rescaling": (
            Quantized("Concat", [image, image], [held, other], held, {"axis": 1}).hub(),
            "w8a8",
            "different scales",
        ),
        "reshape rescaling": (Quantized("Flatten", [image], [held], other).hub(), "w8a8", "different scales"),
        "softmax range": (Quantized("Softmax", [image], [held], Codes(1 / 255, 0)).hub(), "w8a8", "scale"),
        "sigmoid range": (Quantized("Sigmoid", [image], [held], Codes(1 / 256, 3)).hub(), "w8a8", "zero point"),
        "bias scale": (odd_bias, "w8a8", "s_in * s_w"),
        "weight code -128": (low_code, "w8a8", "symmetric"),
        "unknown scheme": (single("Relu", image), "t2b128", "t2b128"),
        "wide integer": (single("Add", np.zeros(2, np.int64), weights={"c": np.asarray([2**40], np.int64)}), "fp32", "int32"),
    }


@pytest.mark.parametrize("name", list(refusals(np.random.default_rng(0))))
def test_refused_before_any_file_is_written(name: str, rng: np.random.Generator, tmp_path: Path) -> None:
    hub, scheme, said = refusals(rng)[name]
    hub.outputs = {"y": np.int64 if hub.nodes[-1].op_type == "NonMaxSuppression" else next(iter(hub.feed.values())).dtype.type}
    model = hub.save(tmp_path / "hub.onnx")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BackendError, match=said.replace("*", r"\*")) as raised:
        write(model, out, WriteOptions(scheme))
    assert list(out.iterdir()) == [] and raised.value.hint


def test_an_unknown_attribute_is_refused_by_name(rng: np.random.Generator, tmp_path: Path) -> None:
    model = onnx.load(single("Relu", normal(rng, 2, 3)).save(tmp_path / "hub.onnx"))
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("slope_hint", 1))
    onnx.save(model, tmp_path / "odd.onnx")
    (found,) = obstacles(tmp_path / "odd.onnx")
    assert (found.backend, found.node) == ("tflite", "relu") and "slope_hint" in found.cause


def test_obstacles_lists_every_node_at_once(rng: np.random.Generator, tmp_path: Path) -> None:
    nodes = [node("Hardmax", "x", "a", "first"), node("Relu", "a", "b", "fine"), node("LpNormalization", "b", "y", "second")]
    found = obstacles(Hub(nodes, {"x": normal(rng, 2, 3)}, {}).save(tmp_path / "hub.onnx"))
    assert [obstacle.node for obstacle in found] == ["first", "second"]


def test_operator_versions_are_those_of_the_kernels_asked_for(rng: np.random.Generator, tmp_path: Path) -> None:
    convert(quantized_cnn(rng), tmp_path, "w8a8")
    model = read_file(tmp_path / "model.tflite")
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    # op_version.cc of LiteRT, for int8.
    assert {names[code.builtinCode]: code.version for code in model.operatorCodes} == {
        "QUANTIZE": 1,
        "PAD": 2,
        "CONV_2D": 3,
        "DEPTHWISE_CONV_2D": 3,
        "ADD": 2,
        "MAX_POOL_2D": 2,
        "RESHAPE": 1,
        "FULLY_CONNECTED": 4,
        "SOFTMAX": 1,
        "DEQUANTIZE": 2,
    }
