"""A hub cut at known values: which values are layers, and what a segment gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepack.quantize.encoding import Encoding
from edgepack.verify.segments import Network, Segment, unrounded
from tests.verify.hubs import float_hub, quantized_hub


def test_layers_are_what_a_fusing_runtime_still_has() -> None:
    assert Network(float_hub()).layers == ("block/r1", "r2", "y")
    assert Network(quantized_hub()).layers == ("image_quantized", "block/r1_quantized", "r2_quantized", "y_quantized", "y")


def test_values_of_constants_alone_are_no_values() -> None:
    assert not [name for name in Network(quantized_hub()).values if name.startswith("w")]


@pytest.mark.parametrize(
    ("value", "name"),
    [("block/r1_quantized", "block/r1"), ("r2_dequantized", "r2"), ("y_quantized", "y"), ("y", "y"), ("image_quantized", "image")],
)
def test_codes_stand_for_the_real_tensor_of_the_float_hub(value: str, name: str) -> None:
    known = {*Network(float_hub()).values, "image"}
    assert Network(quantized_hub()).real_name(value, known) == name


def test_a_segment_reads_the_nearest_known_values_and_nothing_else() -> None:
    network = Network(quantized_hub())
    segment = network.segment("r2_quantized", {"block/r1_quantized", "image_quantized"})
    assert segment.inputs == ("block/r1_quantized",)
    assert (segment.operators, segment.roundings) == ("Conv+Relu", 1)
    wider = network.segment("r2_quantized", {"image_quantized"})
    assert (wider.inputs, wider.roundings) == (("image_quantized",), 2)


def _product(weight: float) -> Segment:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["m"]), helper.make_node("Exp", ["m"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2,))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2,))],
        [numpy_helper.from_array(np.float32(weight), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return Network(model).segment("y", set())


def test_each_arithmetic_rounds_where_it_should() -> None:
    x, weight = np.asarray([0.3, -1.7], np.float32), 1.2345678
    segment, exact = _product(weight), np.exp(x.astype(np.float64) * np.float64(np.float32(weight)))
    np.testing.assert_allclose(segment.in_float64({"x": x}), exact, rtol=1e-15)
    np.testing.assert_allclose(segment.in_float32({"x": x}), np.exp(x * np.float32(weight)), rtol=1e-6)
    halves = np.exp((x.astype(np.float16).astype(np.float64) * np.float64(np.float16(weight))).astype(np.float16).astype(np.float64))
    np.testing.assert_array_equal(segment.in_float16({"x": x}), halves.astype(np.float16))
    step = 1.7 / 127
    np.testing.assert_allclose(segment.with_coarse_inputs({"x": x}), np.exp(np.rint(x / step) * step * np.float32(weight)), rtol=1e-6)


@pytest.mark.parametrize("axis", [None, 1])
def test_unrounded_codes_round_to_what_onnx_quantizes_to(axis: int | None) -> None:
    random = np.random.default_rng(0)
    real = random.normal(size=(2, 3, 5)) * 4
    scale = np.float32(0.03) if axis is None else np.asarray([0.03, 0.5, 0.011], np.float32)
    zero = np.uint8(7) if axis is None else np.asarray([7, 0, 255], np.uint8)
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], axis=1)
    expected = onnx.reference.ReferenceEvaluator(node).run(None, {"x": real, "s": scale.astype(np.float64), "z": zero})[0]
    found = unrounded(Encoding(np.asarray(scale), np.asarray(zero), "uint8", axis), real)
    np.testing.assert_array_equal(np.rint(found), expected)
    assert np.abs(found - expected).max() <= 0.5


def test_a_value_that_a_subgraph_takes_from_outside_is_an_input_of_its_segment() -> None:
    inner = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["t"])], "then", [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, (2,))]
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)],
        "g",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, ()), helper.make_tensor_value_info("x", TensorProto.FLOAT, (2,))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2,))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    segment = Network(model).segment("y", set())
    assert set(segment.inputs) == {"c", "x"}
    np.testing.assert_array_equal(segment.in_float64({"c": np.asarray(True), "x": np.ones(2, np.float32)}), [2.0, 2.0])
