"""The floor: multiplications counted as by hand and as published, and a bound that no machine of the target can be under."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from onnx import helper, numpy_helper

from edgepack.hub.external import ModelFileError
from edgepack.latency.roofline import Work, beaten, floor_ms, work_of
from edgepack.targets import Hardware, load_target
from tests.latency.test_gate import artifact, latency

# EfficientNet-Lite0's blocks (M. Tan, Q. Le, "EfficientNet", ICML 2019, table 1, without squeeze-and-excitation): expansion, kernel,
# stride, channels, repeats.
_LITE0 = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1))


class Network:
    """Writes ONNX; shapes are inferred by onnx itself."""

    def __init__(self, *shape: int | str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.value = "x"
        self._shape = shape

    def node(self, operator: str, *weights: np.ndarray, **attributes: Any) -> Network:
        names = [f"w{len(self.weights) + index}" for index in range(len(weights))]
        self.weights += [numpy_helper.from_array(array, name) for array, name in zip(weights, names, strict=True)]
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, [self.value, *names], [out], name=out, **attributes))
        self.value = out
        return self

    def conv(self, channels: int, out: int, kernel: int = 1, stride: int = 1, group: int = 1) -> Network:
        weight = np.zeros((out, channels // group, kernel, kernel), np.float32)
        return self.node("Conv", weight, group=group, strides=[stride] * 2, pads=[kernel // 2] * 4)

    def write(self, path: Path) -> Path:
        ends = helper.make_tensor_value_info("x", 1, self._shape), helper.make_tensor_value_info(self.value, 1, None)
        graph = helper.make_graph(self.nodes, "g", [ends[0]], [ends[1]], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.save(onnx.shape_inference.infer_shapes(model), path)
        return path


def lite0() -> Network:
    network, channels = Network(1, 3, 224, 224).conv(3, 32, 3, 2), 32
    for expansion, kernel, stride, out, repeats in _LITE0:
        for index in range(repeats):
            wide = channels * expansion
            network = network.conv(channels, wide) if expansion > 1 else network
            network = network.conv(wide, wide, kernel, stride if index == 0 else 1, group=wide).conv(wide, out)
            channels = out
    pooled = network.conv(channels, 1280).node("GlobalAveragePool").node("Flatten")
    return pooled.node("Gemm", np.zeros((1000, 1280), np.float32), transB=1)


def test_efficientnet_lite0_has_the_published_work(tmp_path: Path) -> None:
    found = work_of(lite0().write(tmp_path / "hub.onnx"))
    # Summed by hand from the table. The published 407 M also counts normalization and activations of 6.7 M elements, about three
    # operations each; the published 4.7 M parameters also count 43 k biases.
    assert (found.macs, found.weights) == (385_187_552, 4_608_992)
    assert 0.9 < found.macs / 407e6 < 1 and round(found.weights / 1e6, 1) == 4.6


def test_the_digits_student_has_the_work_its_layers_say(tmp_path: Path) -> None:
    network = Network(1, 1, 28, 28).conv(1, 16, 3).node("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    network = network.conv(16, 16, 3, 2, group=16).conv(16, 32).conv(32, 32, 3).conv(32, 48)
    network = network.node("GlobalAveragePool").node("Flatten").node("Gemm", np.zeros((10, 48), np.float32), transB=1)
    found = work_of(network.write(tmp_path / "hub.onnx"))
    # stem 28 x 28 x 16 x 9, depthwise 7 x 7 x 16 x 9, pointwise 7 x 7 x 16 x 32, residual 7 x 7 x 32 x 32 x 9, expand 7 x 7 x 32 x 48,
    # classify 48 x 10.
    layers = (112_896, 7_056, 25_088, 451_584, 75_264, 480)
    assert found.macs == sum(layers) == 672_368
    assert found.least_macs == (112_896 + 7_056 + 451_584) // 9 + 25_088 + 75_264 + 480
    assert found.weights == 144 + 144 + 512 + 9_216 + 1_536 + 480


@pytest.mark.parametrize(
    ("shape", "operator", "weight", "attributes", "macs", "least"),
    [
        # 5 x 7 by 7 x 11.
        ((5, 7), "MatMul", (7, 11), {}, 385, 385),
        ((3, 5, 7), "MatMul", (7, 11), {}, 1155, 1155),
        ((7, 5), "Gemm", (7, 11), {"transA": 1}, 385, 385),
        # 4 x 4 inputs of 2 channels, each spread over 3 channels of 2 x 2.
        ((1, 2, 4, 4), "ConvTranspose", (2, 3, 2, 2), {"strides": [2, 2]}, 384, 96),
        # 6 outputs of 4 channels, of 3 channels and 5 taps.
        ((1, 3, 10), "Conv", (4, 3, 5), {}, 360, 72),
        ((1, 3, 6, 6), "Conv", (4, 3, 3, 3), {"dilations": [2, 2]}, 432, 48),
    ],
)
def test_each_product_counts_as_by_hand(
    shape: tuple[int, ...],
    operator: str,
    weight: tuple[int, ...],
    attributes: dict[str, Any],
    macs: int,
    least: int,
    tmp_path: Path,
) -> None:
    path = Network(*shape).node(operator, np.zeros(weight, np.float32), **attributes).write(tmp_path / "hub.onnx")
    assert work_of(path) == Work(macs, least, int(np.prod(weight)))


def test_a_query_is_one_sample_where_the_batch_is_open(tmp_path: Path) -> None:
    path = Network("N", 7).node("MatMul", np.zeros((7, 11), np.float32)).write(tmp_path / "hub.onnx")
    assert work_of(path).macs == 77


def test_weights_behind_codes_count_and_a_table_that_is_looked_up_does_not(tmp_path: Path) -> None:
    codes, scale = np.zeros((7, 11), np.int8), np.ones((), np.float32)
    network = Network(5, 7).node("MatMul", codes)
    network.weights.append(numpy_helper.from_array(scale, "scale"))
    network.nodes[0].input[1] = "weight"
    network.nodes.insert(0, helper.make_node("DequantizeLinear", ["w0", "scale"], ["weight"]))
    assert work_of(network.write(tmp_path / "hub.onnx")) == Work(385, 385, 77)
    table = Network(5, 7)
    table.nodes = [helper.make_node("Cast", ["x"], ["i"], to=7), helper.make_node("Gather", ["w", "i"], ["v"])]
    table.weights, table.value = [numpy_helper.from_array(np.zeros((1000, 8), np.float32), "w")], "v"
    assert work_of(table.write(tmp_path / "table.onnx")) == Work(0, 0, 0)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08"])
def test_a_hub_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "hub.onnx").write_bytes(content)
    try:
        assert work_of(tmp_path / "hub.onnx") == Work(0, 0, 0)
    except ModelFileError as error:
        assert "not a valid ONNX model" in error.cause


PI5, PI4 = load_target("raspberry-pi-5"), load_target("raspberry-pi-4")
FP32 = replace(artifact("fp32"), file=replace(artifact().file, bytes=10**12))
W8A8 = replace(FP32, scheme="w8a8")
CONVOLUTION = Work(10**9, 10**9, 10**6)


def test_multiplications_bound_a_small_network() -> None:
    # 2e9 operations at 2.4 GHz x 16; the fourth part on four cores, and no less on eight threads.
    assert floor_ms(CONVOLUTION, FP32, PI5, 1) == pytest.approx(2e9 / (2.4e9 * 16) * 1e3)
    assert floor_ms(CONVOLUTION, FP32, PI5, 4) == floor_ms(CONVOLUTION, FP32, PI5, 8) == pytest.approx(2e9 / (2.4e9 * 16 * 4) * 1e3)
    assert floor_ms(CONVOLUTION, W8A8, PI5, 1) == pytest.approx(2e9 / (2.4e9 * 64) * 1e3)
    assert floor_ms(CONVOLUTION, FP32, PI4, 1) == pytest.approx(2e9 / (1.8e9 * 16) * 1e3)


def test_reading_the_weights_bounds_a_large_one_but_for_what_the_caches_hold() -> None:
    large = Work(10**6, 10**6, 10**8)
    assert floor_ms(large, FP32, PI5, 4) == pytest.approx((4e8 - 4_456_448) / 17.068e9 * 1e3)
    assert floor_ms(large, replace(FP32, scheme="w4b32"), PI5, 4) == pytest.approx((5e7 - 4_456_448) / 17.068e9 * 1e3)
    assert floor_ms(large, FP32, PI4, 4) == pytest.approx((4e8 - 1_179_648) / 12.8e9 * 1e3)
    # What is not in the file is not read.
    assert floor_ms(large, replace(FP32, file=replace(FP32.file, bytes=5_456_448)), PI5, 4) == pytest.approx(1e6 / 17.068e9 * 1e3)


def test_weights_that_stay_in_the_caches_cost_no_reading() -> None:
    assert floor_ms(Work(0, 0, 10**6), FP32, PI5, 1) == 0


_SIZES = st.integers(0, 10**12)


@given(_SIZES, _SIZES, st.integers(1, 64), st.sampled_from(["fp32", "w8", "w8d8", "w8a8"]), st.sampled_from([PI4, PI5]))
def test_no_floor_is_above_the_classical_roofline(least: int, weights: int, threads: int, scheme: str, target: Any) -> None:
    found = floor_ms(Work(least, least, weights), replace(FP32, scheme=scheme), target, threads)
    hardware = target.hardware
    moved = weights * (4 if scheme == "fp32" else 1) / hardware.bytes_per_second
    slowest = min(hardware.operations_per_second.values()) * min(threads, hardware.cores)
    assert found is not None and 0 <= found <= max(moved, 2 * least / slowest) * 1e3 * (1 + 1e-9)


@pytest.mark.parametrize("name", ["android", "ios"])
def test_phones_are_no_single_device_and_have_no_floor(name: str) -> None:
    assert floor_ms(CONVOLUTION, FP32, load_target(name), 1) is None


def test_a_board_of_which_only_the_name_is_known_has_no_floor() -> None:
    target = replace(PI5, name="rock", hardware=Hardware("Radxa ROCK 5B", "aarch64"))
    assert floor_ms(CONVOLUTION, FP32, target, 1) is None


def test_a_type_of_which_nothing_is_known_bounds_nothing() -> None:
    assert floor_ms(Work(10**9, 10**9, 0), replace(FP32, scheme="fp16"), PI5, 1) == 0


def test_the_fastest_query_tells_whether_a_latency_is_credible() -> None:
    assert beaten(latency()) == "" and beaten(latency(floor_ms=8.99)) == ""
    assert beaten(latency(floor_ms=9.01)).startswith("faster than physics: a query took 9 ms")
    assert beaten(latency(floor_ms=5.0, p50=None, p90=None)) == ""
