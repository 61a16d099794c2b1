"""Blocks of real students, every scheme: one delegate partition, nothing moved between layouts, an independent runtime's numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgepack.backends.tflite import lint
from edgepack.runner import litert
from tests.backends.tflite.blocks import BLOCKS, SCHEMES, Chain, in_scheme
from tests.backends.tflite.models import Hub, convert, dynamic, node, operators, read_file, run_litert, run_ort

# From here on the writer stores float weights in halves under fp16; no bias of these blocks is as large.
HALVED_FROM = 64

CONV_2D = schema.BuiltinOperator.CONV_2D


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_is_one_partition_without_transposes(block: str, scheme: str, tmp_path: Path) -> None:
    description = in_scheme(BLOCKS[block](), scheme, tmp_path)
    told = litert.RUNTIME.load(str(tmp_path / description.file), 1).describe()
    assert (told["partitions"], told["outside"]) == (1, {})
    assert "TRANSPOSE" not in operators(tmp_path)
    assert lint(tmp_path / description.file) == []


@pytest.mark.parametrize("block", ["mobilenet_v3", "efficientnet_lite"])
def test_activations_are_fused_into_their_convolutions(block: str, tmp_path: Path) -> None:
    in_scheme(BLOCKS[block](), "fp32", tmp_path)
    assert not {"RELU", "RELU6"} & set(operators(tmp_path))


@pytest.mark.parametrize("scheme", ["fp32", "fp16", "w8"])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_on_float_activations_equals_onnxruntime_with_the_weights_it_stores(block: str, scheme: str, tmp_path: Path) -> None:
    hub = BLOCKS[block]()
    ours = run_litert(in_scheme(hub, scheme, tmp_path), tmp_path, hub.feed)["y"]
    if scheme == "fp16":
        with_half_weights(tmp_path / "hub.onnx")
    reference = run_ort(tmp_path, hub.feed)["y"]
    # Some ten layers of float32 sums of at most 432 products of unit variance: 2^-24 * sqrt(432) * 10 is 1.2e-5 of outputs below 8.
    np.testing.assert_allclose(ours, reference, atol=1e-4)


def with_half_weights(path: Path) -> None:
    model = onnx.load(path)
    for index, held in enumerate(model.graph.initializer):
        array = numpy_helper.to_array(held)
        if array.dtype == np.float32 and array.size >= HALVED_FROM:
            halved = array.astype(np.float16).astype(np.float32)
            model.graph.initializer[index].CopyFrom(numpy_helper.from_array(halved, held.name))
    onnx.save(model, path)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_on_codes_is_as_near_to_its_float_self_as_onnxruntimes(block: str, tmp_path: Path) -> None:
    """FACTS' bars for networks with ties: at most 1.5 dB behind ONNX Runtime, the two at least 32 dB from each other."""
    hub = BLOCKS[block]()
    for folder in (tmp_path / "fp32", tmp_path / "w8a8"):
        folder.mkdir()
    in_scheme(hub, "fp32", tmp_path / "fp32")
    exact = run_ort(tmp_path / "fp32", hub.feed)["y"]
    ours = run_litert(in_scheme(hub, "w8a8", tmp_path / "w8a8"), tmp_path / "w8a8", hub.feed)["y"]
    reference = run_ort(tmp_path / "w8a8", hub.feed)["y"]
    assert sqnr(ours, exact) >= sqnr(reference, exact) - 1.5
    assert sqnr(ours, reference) >= 32


def sqnr(given: Any, wanted: Any) -> float:
    """Signal power over error power in dB."""
    noise = np.square(given.astype(np.float64) - wanted).sum()
    return float(10 * np.log10(np.square(wanted.astype(np.float64)).sum() / max(noise, 1e-300)))


@pytest.mark.parametrize("shape", [(5, 64), (1, 64), (2, 7, 64)])
def test_a_hybrid_product_errs_as_one_range_for_each_row_allows(shape: tuple[int, ...], rng: np.random.Generator, tmp_path: Path) -> None:
    """Codes of a row are s = (max - min) / 255 apart: an element is off by at most s, its zero point's rounding included."""
    codes = rng.integers(-127, 128, (64, 48)).astype(np.int8)
    scale = rng.uniform(0.5, 2, 48).astype(np.float32) / 500
    nodes = [node("DequantizeLinear", "c s z", "w", "dq", axis=1), dynamic(node("MatMul", "x w", "y", "product"))]
    # Rows of very different size: one range for the whole tensor would drown the small ones.
    rows = 10.0 ** rng.uniform(-2, 2, (*shape[:-1], 1))
    feed = {"x": (rng.standard_normal(shape) * rows).astype(np.float32)}
    hub = Hub(nodes, feed, {"c": codes, "s": scale, "z": np.zeros(48, np.int8)})
    ours = run_litert(convert(hub, tmp_path, "w8d8"), tmp_path, feed)["y"]
    weight, x = codes * scale.astype(np.float64), feed["x"].astype(np.float64)
    step = (np.maximum(x.max(-1), 0) - np.minimum(x.min(-1), 0))[..., None] / 255
    error = np.abs(ours - x @ weight)
    assert (error <= step * np.abs(weight).sum(0)).all()
    # 1.3: the largest of a few hundred such sums' mean squares, and the clipped ends.
    expected = step * np.sqrt(np.square(weight).sum(0) / 12)
    assert np.sqrt(np.square(error / expected).mean()) < 1.3
    (code,) = read_file(tmp_path / "model.tflite").operatorCodes
    assert code.version == 12


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "same": {"pads": [1, 1, 1, 1]},
    "strided": {"pads": [1, 1, 1, 1], "strides": [2, 2]},
    "dilated": {"pads": [2, 2, 2, 2], "dilations": [2, 2]},
    "uneven": {"pads": [0, 2, 1, 0]},
}


@pytest.mark.parametrize("form", CONVOLUTIONS)
def test_a_hybrid_convolution_errs_as_one_range_for_each_image_allows(form: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """Codes of an image are s = (max - min) / 255 apart: an element is off by at most s, its zero point's rounding included."""
    codes = rng.integers(-127, 128, (24, 16, 3, 3)).astype(np.int8)
    scale, bias = rng.uniform(0.5, 2, 24).astype(np.float32) / 500, rng.standard_normal(24).astype(np.float32)
    nodes = [node("DequantizeLinear", "c s z", "w", "dq", axis=0), dynamic(node("Conv", "x w b", "y", "conv", **CONVOLUTIONS[form]))]
    # Images of very different size: one range for the whole batch would drown the small one.
    feed = {"x": (rng.standard_normal((2, 16, 12, 11)) * np.asarray([0.05, 20]).reshape(2, 1, 1, 1)).astype(np.float32)}
    hub = Hub(nodes, feed, {"c": codes, "s": scale, "z": np.zeros(24, np.int8), "b": bias})
    description = convert(hub, tmp_path, "w8d8")
    error = np.abs(run_litert(description, tmp_path, feed)["y"] - run_ort(tmp_path, feed)["y"].astype(np.float64))
    weight, x = np.abs(codes * scale.astype(np.float64).reshape(-1, 1, 1, 1)), feed["x"].astype(np.float64)
    step = (np.maximum(x.max((1, 2, 3)), 0) - np.minimum(x.min((1, 2, 3)), 0)).reshape(2, 1, 1, 1) / 255
    assert (error <= step * weight.sum((1, 2, 3)).reshape(1, -1, 1, 1)).all()
    # Rounding errors of an element are independent, s / sqrt(12); 1.3 as for the product above. Fewer terms at the edge only lower it.
    expected = step * np.sqrt(np.square(weight).sum((1, 2, 3)) / 12).reshape(1, -1, 1, 1)
    assert 0.3 < np.sqrt(np.square(error / expected).mean()) < 1.3
    assert litert.RUNTIME.load(str(tmp_path / description.file), 1).describe()["partitions"] == 1
    assert [code.version for code in read_file(tmp_path / "model.tflite").operatorCodes if code.builtinCode == CONV_2D] == [5]
    assert "DEQUANTIZE" not in operators(tmp_path)


@pytest.mark.parametrize(("operator", "marked"), [("MatMul", False), ("Conv", False), ("Conv", True)])
def test_only_marked_nodes_of_one_group_keep_codes(operator: str, marked: bool, rng: np.random.Generator, tmp_path: Path) -> None:
    shape, axis, attributes = ((8, 8), 1, {}) if operator == "MatMul" else ((8, 2, 3, 3), 0, {"group": 4})
    product = node(operator, "x w", "y", "product", **attributes)
    nodes = [node("DequantizeLinear", "c s z", "w", "dq", axis=axis), dynamic(product) if marked else product]
    codes, scale = rng.integers(-127, 128, shape).astype(np.int8), rng.uniform(0.5, 2, 8).astype(np.float32) / 500
    feed = {"x": rng.standard_normal((3, 8) if operator == "MatMul" else (1, 8, 6, 5)).astype(np.float32)}
    ours = run_litert(convert(Hub(nodes, feed, {"c": codes, "s": scale, "z": np.zeros(8, np.int8)}), tmp_path, "w8d8"), tmp_path, feed)
    assert operators(tmp_path)[0] == "DEQUANTIZE"
    # Sums of at most 18 float32 products below 4. Not onnxruntime: it ranges the rows of such a product at run time, marked or not.
    (reference,) = ReferenceEvaluator(str(tmp_path / "hub.onnx")).run(None, feed)
    np.testing.assert_allclose(ours["y"], reference, atol=1e-5)


@pytest.mark.parametrize(("operator", "axis"), [("MatMul", 0), ("Gemm", 1), ("Conv", 1)])
def test_scales_along_another_axis_than_the_output_channels_are_not_misread(
    operator: str, axis: int, rng: np.random.Generator, tmp_path: Path
) -> None:
    """A square weight: nothing but the axis tells which scale is whose."""
    attributes = {"transB": 1} if operator == "Gemm" else {}
    nodes = [node("DequantizeLinear", "c s z", "w", "dq", axis=axis), dynamic(node(operator, "x w", "y", "product", **attributes))]
    codes = rng.integers(-127, 128, (8, 8, 3, 3) if operator == "Conv" else (8, 8)).astype(np.int8)
    scale = rng.uniform(0.5, 2, 8).astype(np.float32) / 500
    feed = {"x": rng.standard_normal((1, 8, 6, 5) if operator == "Conv" else (3, 8)).astype(np.float32)}
    hub = Hub(nodes, feed, {"c": codes, "s": scale, "z": np.zeros(8, np.int8)})
    for scheme in ("w8", "w8d8"):
        ours = run_litert(convert(hub, tmp_path, scheme), tmp_path, feed)["y"]
        np.testing.assert_allclose(ours, run_ort(tmp_path, feed)["y"], atol=1e-5)


def pyramid() -> Hub:
    """Three levels of a feature pyramid: lateral 1x1 convolutions, nearest upsampling by 2, sums, a 3x3 convolution at the finest."""
    chain = Chain(1, 3, 32, 24)
    levels, x = [], "x"
    for inner, outer in ((3, 8), (8, 12), (12, 16)):
        x = chain.add("Relu", chain.conv(x, outer, inner, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1]))
        levels.append(chain.conv(x, 10, outer, 1, 1))
    top, scales = levels[-1], chain.constant(np.asarray([1, 1, 2, 2], np.float32))
    for level in reversed(levels[:-1]):
        nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        top = chain.add("Add", f"{chain.add('Resize', f'{top} - {scales}', **nearest)} {level}")
    chain.hub.nodes.append(node("Identity", chain.conv(top, 4, 10, 3, 3, pads=[1, 1, 1, 1]), "y", "scores"))
    return chain.hub


def test_a_feature_pyramid_on_codes_is_one_partition(tmp_path: Path) -> None:
    hub = pyramid()
    description = in_scheme(hub, "w8a8", tmp_path)
    # FACTS' bar for networks without ties.
    assert sqnr(run_litert(description, tmp_path, hub.feed)["y"], run_ort(tmp_path, hub.feed)["y"]) >= 36
    told = litert.RUNTIME.load(str(tmp_path / description.file), 1).describe()
    assert (told["partitions"], told["outside"]) == (1, {})
    assert not {"TRANSPOSE", "RESIZE_NEAREST_NEIGHBOR"} & set(operators(tmp_path))


def test_int8_weights_of_a_transposed_convolution_stay_codes_in_every_group(rng: np.random.Generator, tmp_path: Path) -> None:
    for group, shape, axis in ((1, (32, 24, 4, 4), 1), (4, (32, 6, 4, 4), 1), (32, (32, 1, 4, 4), 0)):
        codes = rng.integers(-127, 128, shape).astype(np.int8)
        scale = (rng.uniform(0.5, 2, shape[axis]) / 500).astype(np.float32)
        nodes = [
            node("DequantizeLinear", "c s z", "w", "dq", axis=axis),
            node("ConvTranspose", "x w", "y", "grow", strides=[2, 2], pads=[1, 1, 1, 1], group=group),
        ]
        feed = {"x": rng.standard_normal((1, 32, 5, 6)).astype(np.float32)}
        hub = Hub(nodes, feed, {"c": codes, "s": scale, "z": np.zeros(shape[axis], np.int8)})
        ours = run_litert(convert(hub, tmp_path, "w8"), tmp_path, feed)["y"]
        np.testing.assert_allclose(ours, run_ort(tmp_path, feed)["y"], atol=2e-4)
        assert (tmp_path / "model.tflite").stat().st_size < codes.nbytes + 6000
