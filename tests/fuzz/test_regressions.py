"""What the fuzzer found, each as the smallest graph that shows it, through its own harness: every format against float64 and ORT."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conformance.worker import PASS, REFUSED
from tests.fuzz.builder import Graph, run_model
from tests.fuzz.run import FORMATS, Lane

RNG = np.random.default_rng(3)


def graph(nodes: list[onnx.NodeProto], feed: dict[str, np.ndarray], outputs: dict[str, int], **weights: np.ndarray) -> Graph:
    """A graph whose output types are given; the shapes are what onnxruntime gives."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape) for name, array in feed.items()
    ]
    held = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    bare = helper.make_graph(nodes, "g", inputs, [onnx.ValueInfoProto(name=name) for name in outputs], held)
    model = helper.make_model(bare, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    shapes = {name: array.shape for name, array in zip(outputs, run_model(model, feed), strict=True)}
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, kind, shapes[name]) for name, kind in outputs.items())
    return Graph(model, feed)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


node = helper.make_node
REAL, BOOL, CODE = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT8
PAIR = {"s": np.float32(0.078), "z": np.int8(17), "t": np.float32(0.031), "w": np.int8(0)}

FP32 = {
    "one_element_of_two_taken_three_times": graph(
        [node("Gather", ["x", "i"], ["y"])], {"x": normal(2, 3)}, {"y": REAL}, i=np.asarray([0, -2, 0])
    ),
    "an_input_that_is_returned": graph([node("Relu", ["x"], ["y"])], {"x": normal(2, 3)}, {"y": REAL, "x": REAL}),
    "transposed_gemm_of_a_reshaped_image": graph(
        [
            node("MaxPool", ["x"], ["p"], kernel_shape=[2, 2]),
            node("Reshape", ["p", "shape"], ["m"]),
            node("Gemm", ["m", "b"], ["y"], transA=1, alpha=1.5),
        ],
        {"x": normal(1, 3, 4, 4), "b": normal(3, 5)},
        {"y": REAL},
        shape=np.asarray([3, 9]),
    ),
    "gemm_with_a_bias_for_each_row": graph(
        [node("Gemm", ["x", "b", "c"], ["y"], beta=2.0, alpha=0.5)], {"x": normal(4, 3)}, {"y": REAL}, b=normal(3, 5), c=normal(4, 1)
    ),
    "split_of_booleans": graph(
        [node("Split", ["x"], ["y", "z"], axis=1, num_outputs=2)], {"x": RNG.random((1, 4, 3)) < 0.5}, {"y": BOOL, "z": BOOL}
    ),
    "gather_by_a_scalar_of_run_time": graph(
        [node("Gather", ["x", "i"], ["y"])], {"x": normal(4, 3), "i": np.asarray(-1, np.int32)}, {"y": REAL}
    ),
    "codes_of_channels_counted_from_the_end": graph(
        [node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=-1), node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=-1)],
        {"x": normal(2, 1)},
        {"y": REAL},
        s=np.asarray([0.02], np.float32),
        z=np.asarray([61], np.int8),
    ),
    "codes_made_of_other_codes": graph(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            node("DequantizeLinear", ["q", "s", "z"], ["r"]),
            node("Relu", ["r"], ["a"]),
            node("QuantizeLinear", ["r", "t", "w"], ["p"]),
            node("DequantizeLinear", ["p", "t", "w"], ["b"]),
            node("Add", ["a", "b"], ["y"]),
        ],
        {"x": normal(1, 5)},
        {"y": REAL},
        **PAIR,
    ),
    "maximum_over_one_axis_of_space": graph([node("GlobalMaxPool", ["x"], ["y"])], {"x": normal(3, 2, 4)}, {"y": REAL}),
    "windows_that_begin_beyond_the_input": graph(
        [node("MaxPool", ["x"], ["y"], kernel_shape=[5, 1], pads=[3, 0, 2, 0])], {"x": normal(3, 5, 5, 2)}, {"y": REAL}
    ),
}


@pytest.fixture(scope="module")
def lanes() -> Iterator[dict[str, Lane]]:
    with tempfile.TemporaryDirectory() as folder:
        held = {scheme: Lane(Path(folder) / scheme, FORMATS, scheme) for scheme in ("fp32", "w8a8")}
        yield held
        for lane in held.values():
            lane.stop()


@pytest.mark.parametrize("name", FP32)
def test_real_graphs_that_once_failed_are_right(name: str, lanes: dict[str, Lane]) -> None:
    record = lanes["fp32"].given(FP32[name], FORMATS)
    assert record.prepared.result.outcome == PASS, record.prepared.result.reason
    assert not record.failures()
    # Core ML has no scalars, no booleans at its ends, no codes of channels of activations, and no output that is an input.
    assert record.results["ort"].outcome == PASS or "codes of its own" in record.results["ort"].reason
    assert record.results["tflite"].outcome == PASS or "not one scale" in record.results["tflite"].reason


W8A8 = {
    "average_pool_with_dilations_of_1": [node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[1, 1])],
    "average_pool_that_dilates_a_window_of_1": [node("AveragePool", ["x"], ["y"], kernel_shape=[1, 2], dilations=[2, 1])],
    "transposed_gemm": [node("Reshape", ["x", "shape"], ["m"]), node("Gemm", ["m", "b"], ["y"], transA=1)],
    "mean_over_no_axis": [node("ReduceMean", ["x"], ["m"], noop_with_empty_axes=1), node("Min", ["c", "m"], ["y"])],
}


@pytest.mark.parametrize("name", W8A8)
def test_quantized_graphs_that_once_failed_are_right(name: str, lanes: dict[str, Lane]) -> None:
    weights = {"shape": np.asarray([6, 8]), "b": normal(6, 5), "c": normal(4, 4)}
    used = {name_ for held in W8A8[name] for name_ in held.input}
    kept = {name_: array for name_, array in weights.items() if name_ in used}
    record = lanes["w8a8"].given(graph(W8A8[name], {"x": normal(1, 3, 4, 4)}, {"y": REAL}, **kept), FORMATS)
    assert {result.outcome for result in record.results.values()} == {PASS}, record.results


def test_a_refusal_of_an_output_that_is_an_input_says_so(lanes: dict[str, Lane]) -> None:
    result = lanes["fp32"].given(FP32["an_input_that_is_returned"], ["coreml"]).results["coreml"]
    assert result.outcome == REFUSED and "input" in result.reason


def test_the_graphs_run_in_onnxruntime_as_they_are() -> None:
    for held in FP32.values():
        assert run_model(held.model, held.feed)
