"""Weight-only and dynamic hubs: every weight in int8, nothing else touched, and what that costs, against float64 and onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from edgepack.quantize.constraints import Demands, QuantizeError
from edgepack.quantize.fold import fold
from edgepack.quantize.half import half, rounded_to_half
from edgepack.quantize.weights import quantize_weights, simulate_dynamic
from tests.quantize.graphs import convolution, decoder, hub, pyramid, run_all, samples, squeeze_excite

node = helper.make_node
HALF = Demands("float16", targets=("ios",))


def _db(truth: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10(np.square(truth).sum(dtype=np.float64) / np.square(truth - found, dtype=np.float64).sum()))


def _encoded(model: ir.Model) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """(codes, scale, axis) by the name of the node that reads them."""
    found = {}
    for held in model.graph:
        for value in held.inputs:
            reader = value.producer() if value is not None else None
            if reader is not None and reader.op_type == "DequantizeLinear":
                codes, scale = (reader.inputs[index].const_value.numpy() for index in (0, 1))
                assert not reader.inputs[2].const_value.numpy().any()
                found[held.name] = (codes, scale, reader.attributes["axis"].as_int())
    return found


@pytest.mark.parametrize("build", [convolution, decoder, pyramid, squeeze_excite])
def test_every_weight_is_int8_per_output_channel_and_nothing_else_changes(build: object) -> None:
    model = build()  # type: ignore[operator]
    quantized, report = quantize_weights(model, Demands())
    onnx.checker.check_model(ir.to_proto(quantized), full_check=True)
    assert report.encoded == report.found and report.real == {}
    weighted = {held.name: held for held in model.graph if held.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")}
    encoded = _encoded(quantized)
    assert set(encoded) == set(weighted)
    for name, (codes, scale, axis) in encoded.items():
        real = weighted[name].inputs[1].const_value.numpy().astype(np.float64)
        others = tuple(index for index in range(real.ndim) if index != axis)
        np.testing.assert_allclose(scale, np.abs(real).max(axis=others) / 127, rtol=1e-6)
        shape = [-1 if index == axis else 1 for index in range(real.ndim)]
        np.testing.assert_array_equal(codes, np.rint(real / scale.reshape(shape).astype(np.float64)))
        assert np.abs(codes.astype(int)).max() <= 127
    assert [held.op_type for held in quantized.graph if held.op_type != "DequantizeLinear"] == [held.op_type for held in model.graph]


def test_int8_weights_keep_the_function_within_what_eight_bits_allow() -> None:
    """A normal weight held in 127 steps of its channel's largest (about 3 sigma): 10 log10(12 * (127 / 3)^2) = 43 dB a layer [Widrow 1996];
    three layers lose 10 log10 3 = 5 dB of it."""
    model, data = convolution(), samples(16, seed=5)
    assert _db(run_all(model, data), run_all(quantize_weights(model, Demands())[0], data)) > 35


def test_matmul_columns_rows_of_a_left_operand_and_transposed_convolutions_have_their_own_axes() -> None:
    random = np.random.default_rng(0)
    weights = {
        "right": random.standard_normal((8, 5)).astype(np.float32),
        "left": random.standard_normal((6, 8)).astype(np.float32),
        "up": random.standard_normal((3, 4, 2, 2)).astype(np.float32),
        "deep": random.standard_normal((4, 1, 2, 2)).astype(np.float32),
    }
    nodes = [
        node("ConvTranspose", ["x", "up"], ["u"], strides=[2, 2]),
        node("ConvTranspose", ["u", "deep"], ["d"], group=4),
        node("MatMul", ["x", "right"], ["r"]),
        node("MatMul", ["left", "r"], ["y"]),
    ]
    axes = {name: axis for name, (_, _, axis) in _encoded(quantize_weights(hub(nodes, weights, ("y", "d")), Demands())[0]).items()}
    assert axes == {"ConvTranspose_u": 1, "ConvTranspose_d": 0, "MatMul_r": 1, "MatMul_y": 0}


def test_what_cannot_be_encoded_is_counted_and_named() -> None:
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((4, 3, 1, 1)).astype(np.float32)}
    nodes = [node("Conv", ["x", "w"], ["c"]), node("MatMul", ["c", "c"], ["y"])]
    _, report = quantize_weights(hub(nodes, weights), Demands())
    assert (report.encoded, report.found) == ({"Conv": 1}, {"Conv": 1, "MatMul": 1})
    lines = ["int8 weights in 1 of 1 Conv, 0 of 1 MatMul", "'MatMul_y' keeps real weights: its weights are computed at run time"]
    assert report.lines() == lines


def test_layers_that_share_a_weight_share_its_codes() -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["a", "w"], ["y"])]
    quantized, _ = quantize_weights(hub(nodes, {"w": np.eye(8, dtype=np.float32)}), Demands())
    assert sum(value.dtype == ir.DataType.INT8 and value.const_value.size > 8 for value in quantized.graph.initializers.values()) == 1


def test_a_student_without_weights_is_refused() -> None:
    with pytest.raises(QuantizeError, match="no weight of the student can be held in int8"):
        quantize_weights(hub([node("Relu", ["x"], ["y"])], {}), Demands())


def test_a_student_with_codes_is_not_quantized_again() -> None:
    with pytest.raises(QuantizeError, match="already carries"):
        quantize_weights(quantize_weights(convolution(), Demands())[0], Demands())


def test_scales_are_fp16_numbers_where_a_target_computes_in_them_and_tiny_layers_stay_real() -> None:
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((4, 3, 1, 1)).astype(np.float32), "tiny": np.full((4, 4, 1, 1), 1e-5, np.float32)}
    model = hub([node("Conv", ["x", "w"], ["c"]), node("Conv", ["c", "tiny"], ["y"])], weights)
    quantized, report = quantize_weights(model, HALF)
    assert report.real == {"Conv_y": "its weights are so small that their scales are no fp16 numbers"}
    ((_, scale, _),) = _encoded(quantized).values()
    np.testing.assert_array_equal(scale, scale.astype(np.float16).astype(np.float32))
    assert quantize_weights(model, Demands())[1].real == {}


def test_products_and_ungrouped_convolutions_are_marked_dynamic_and_depthwise_ones_are_not() -> None:
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((3, 1, 3, 3)), "p": random.standard_normal((8, 3, 1, 1)), "m": random.standard_normal((8, 5))}
    nodes = [
        node("Conv", ["x", "w"], ["d"], group=3, pads=[1, 1, 1, 1]),
        node("Conv", ["d", "p"], ["c"]),
        node("MatMul", ["c", "m"], ["y"]),
    ]
    model = hub(nodes, {name: array.astype(np.float32) for name, array in weights.items()})
    quantized, report = quantize_weights(model, Demands(), dynamic=True)
    marked = {held.name for held in quantized.graph if held.metadata_props.get("edgepack.activations") == "dynamic"}
    assert marked == set(report.dynamic) == {"Conv_c", "MatMul_y"}
    assert {operation.name for operation in fold(quantized).operations if operation.dynamic} == marked


def test_the_simulation_of_dynamic_codes_equals_numpys_reading_of_the_specification() -> None:
    """ONNX DynamicQuantizeLinear-11, in numpy: uint8 over the tensor's own range with zero, round half to even."""
    weight = np.random.default_rng(2).standard_normal((8, 5)).astype(np.float32)
    quantized, _ = quantize_weights(hub([node("MatMul", ["x", "w"], ["y"])], {"w": weight}), Demands(), dynamic=True)
    data = samples(3, seed=4)
    found = run_all(simulate_dynamic(quantized), data)
    ((codes, scale, _),) = _encoded(quantized).values()
    for row, x in zip(found, data.arrays["x"], strict=True):
        low, high = min(x.min(), 0), max(x.max(), 0)
        step = np.float32((np.float32(high) - np.float32(low)) / np.float32(255))
        zero = np.clip(np.rint(-low / step), 0, 255)
        held = (np.clip(np.rint(x / step) + zero, 0, 255) - zero) * np.float64(step)
        np.testing.assert_allclose(row, held @ (codes * scale.astype(np.float64)), atol=2e-5)


def test_halves_are_what_numpy_rounds_to_and_finite_numbers_stay_finite() -> None:
    given = np.asarray([1e6, -1e6, 1.0004883, 1 / 3, 1e-9, np.inf], np.float32)
    np.testing.assert_array_equal(half(given), [65504, -65504, 1.0, np.float16(1 / 3), 0, np.inf])


@pytest.mark.parametrize("build", [convolution, decoder, pyramid, squeeze_excite])
def test_half_weights_cost_what_eleven_bits_cost(build: object) -> None:
    """Each number is off by at most 2^-11 of itself, on average 10 log10(7 * 2^22) = 75 dB below it; a handful of layers and cancelling
    sums take 10 to 15 dB of that, and rounding every result as well not more than that again."""
    model, data = build(), samples(8, seed=6)  # type: ignore[operator]
    truth = run_all(model, data)
    weights, all_of_it = (_db(truth, run_all(rounded_to_half(model, computes), data)) for computes in (False, True))
    assert 60 < weights < 100
    assert 50 < all_of_it <= weights
