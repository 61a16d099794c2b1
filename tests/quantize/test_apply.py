"""The quantized hub: valid, complete, with codes that independent arithmetic reproduces."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from edgepack.quantize.apply import quantize_static
from edgepack.quantize.constraints import Demands, QuantizeError
from edgepack.quantize.fold import fold
from edgepack.quantize.placement import PLACEMENT
from tests.quantize.graphs import convolution, hub, ranges_of, run_all, samples


def _quantized(model: ir.Model, demands: Demands | None = None) -> ir.Model:
    return quantize_static(model, ranges_of(model), demands or Demands())[0]


def _initializer(model: ir.Model, part: str) -> np.ndarray:
    (name,) = [name for name in model.graph.initializers if part in name]
    return model.graph.initializers[name].const_value.numpy()


def test_the_quantized_hub_is_valid_onnx_and_keeps_its_interface() -> None:
    model = _quantized(convolution())
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_the_hub_it_came_from_is_left_as_it_was() -> None:
    model = convolution()
    before = ir.to_proto(model).SerializeToString()
    _quantized(model)
    assert ir.to_proto(model).SerializeToString() == before


def test_no_real_weight_remains_beside_its_codes() -> None:
    model = _quantized(convolution())
    large = [name for name, value in model.graph.initializers.items() if value.dtype == ir.DataType.FLOAT and value.const_value.size > 8]
    assert large == []


def test_weight_and_bias_codes_equal_the_eight_bit_specification() -> None:
    hub_model = convolution()
    model = _quantized(hub_model)
    weight = hub_model.graph.initializers["w1"].const_value.numpy().astype(np.float64)
    scale = np.abs(weight).reshape(8, -1).max(axis=1) / 127
    np.testing.assert_array_equal(_initializer(model, "w1/Conv_c1/codes"), np.rint(weight / scale.reshape(-1, 1, 1, 1)))
    bias = hub_model.graph.initializers["b1"].const_value.numpy().astype(np.float64)
    expected = np.rint(bias / (_initializer(model, "x/scale").astype(np.float64) * scale))
    # The stored scales are float32 (relative error 2^-24 each): codes of about 10^4 may differ by one.
    assert np.abs(_initializer(model, "Conv_c1/bias/codes") - expected).max() <= 1


def test_int8_keeps_the_function_within_what_eight_bits_allow() -> None:
    """A tensor of 8-bit codes has about 6.02 * 8 - 7 = 41 dB for a uniform signal [Widrow 1996]; seven such tensors in a row lose
    10 log10 7 = 8 dB more, and weights as much again: 30 dB is what a correct quantizer exceeds and a wrong one never reaches."""
    model, data = convolution(), samples(32, seed=5)
    truth, found = run_all(model, data), run_all(_quantized(model), data)
    assert 10 * np.log10((truth**2).sum() / ((truth - found) ** 2).sum()) > 30


def test_every_computing_node_of_a_plain_network_is_integer_in_folded_form() -> None:
    folded = fold(_quantized(convolution()), lambda producer, consumer: "Relu" if consumer.op_type == "Relu" else None)
    names = [operation.op_type for operation in folded.operations]
    assert names == ["QuantizeLinear", "Conv", "MaxPool", "Conv", "Add", "GlobalAveragePool", "Reshape", "Gemm", "DequantizeLinear"]
    integer = [operation for operation in folded.operations if operation.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    assert all(output.encoding is not None for operation in integer for output in operation.outputs)


def test_a_node_that_placement_left_real_is_real_in_folded_form() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Softmax", ["r"], ["s"], axis=1),
        helper.make_node("Add", ["s", "r"], ["y"]),
    ]
    model = _quantized(hub(nodes, {}))
    (softmax,) = [node for node in model.graph if node.op_type == "Softmax"]
    assert softmax.metadata_props[PLACEMENT] == "real"
    (operation,) = [operation for operation in fold(model).operations if operation.op_type == "Softmax"]
    assert operation.inputs[0] is not None
    assert operation.inputs[0].encoding is None
    assert operation.outputs[0].encoding is None


def test_a_constant_operand_is_encoded_too() -> None:
    model = _quantized(hub([helper.make_node("Mul", ["x", "k"], ["y"])], {"k": np.linspace(-1, 2, 3, dtype=np.float32).reshape(3, 1, 1)}))
    (operation,) = [operation for operation in fold(model).operations if operation.op_type == "Mul"]
    constant = operation.inputs[1]
    assert constant is not None
    assert constant.encoding is not None
    assert np.abs(constant.real().reshape(-1) - [-1, 0.5, 2]).max() <= 3 / 255 / 2 + 1e-6


def test_an_output_that_is_read_inside_too_keeps_its_name_and_value() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Add", ["y", "x"], ["z"])]
    model = hub(nodes, {}, outputs=("y", "z"))
    quantized = _quantized(model)
    assert [value.name for value in quantized.graph.outputs] == ["y", "z"]
    data = samples(4)
    assert np.abs(run_all(quantized, data) - run_all(model, data)).max() <= 2 / 255


def test_a_model_with_qdq_is_refused_not_quantized_twice() -> None:
    model = _quantized(convolution())
    with pytest.raises(QuantizeError, match="already carries"):
        quantize_static(model, ranges_of(convolution()), Demands())


def test_a_model_with_nothing_to_quantize_is_refused() -> None:
    model = hub([helper.make_node("Exp", ["x"], ["y"])], {})
    with pytest.raises(QuantizeError, match="no node"):
        quantize_static(model, ranges_of(model), Demands())


def test_fp16_demands_reach_every_scale() -> None:
    model = _quantized(convolution(), Demands("float16"))
    for name, value in model.graph.initializers.items():
        if name.endswith("/scale") and "bias" not in name:
            scale = value.const_value.numpy()
            np.testing.assert_array_equal(scale, scale.astype(np.float16).astype(np.float32), err_msg=name)
