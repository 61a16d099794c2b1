"""Blocks of real students, every scheme: one delegate partition, nothing moved between layouts, an independent runtime's numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgepack.backends.tflite import lint
from edgepack.runner import litert
from tests.backends.tflite.blocks import BLOCKS, SCHEMES, in_scheme
from tests.backends.tflite.models import Hub, convert, node, operators, read_file, run_litert, run_ort

# From here on the writer stores float weights in halves under fp16; no bias of these blocks is as large.
HALVED_FROM = 64


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
    nodes = [node("DequantizeLinear", "c s z", "w", "dq", axis=1), node("MatMul", "x w", "y", "product")]
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
