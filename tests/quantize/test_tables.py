"""Tables that a Gather takes rows of: int8 with a scale for each row, once even where the last layer is tied to them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgepack.calibration.observe import observe
from edgepack.calibration.readers import Samples
from edgepack.hub.graph import constant
from edgepack.quantize.apply import quantize_static
from edgepack.quantize.constraints import Demands, QuantizeError
from edgepack.quantize.fold import fold
from edgepack.quantize.scheme import Scheme
from edgepack.quantize.sizes import stored_bytes
from edgepack.quantize.weights import quantize_weights
from tests.quantize.graphs import EMBEDDING_IDS, convolution, embedding, hub, run_all

IDS = Samples({"ids": EMBEDDING_IDS[None]})
TIED = ["", "transposed", "biased", "gemm"]


def _codes(model: ir.Model, rows: int = 192) -> list[np.ndarray]:
    held = [constant(value) for value in model.graph.initializers.values()]
    return [array for array in held if array is not None and array.dtype == np.int8 and rows in array.shape and array.ndim == 2]


@pytest.mark.parametrize("tied", TIED)
def test_a_table_is_held_once_in_codes_with_a_scale_for_each_row(tied: str) -> None:
    model = embedding(tied)
    quantized, report = quantize_weights(model, Demands(), dynamic=True)
    onnx.checker.check_model(ir.to_proto(quantized), full_check=True)
    assert report.encoded == report.found and report.found["Gather"] == 1 and report.real == {}
    table = constant(model.graph.initializers["table"])
    assert table is not None
    (codes,) = _codes(quantized)
    scale = np.abs(table).max(axis=1, keepdims=True) / np.float32(127)
    np.testing.assert_array_equal(codes, np.rint(table / scale.astype(np.float64)))
    assert len(report.dynamic) == (2 if tied else 0)
    # A row is off by half its own scale at most, whatever the others hold.
    if not tied:
        error = np.abs(run_all(quantized, IDS) - run_all(model, IDS))[0, 0]
        assert (error.max(axis=1) <= scale[EMBEDDING_IDS[0], 0] * 0.5001).all() and error.any()


def test_the_folded_form_hands_a_tied_table_to_its_layer_as_a_constant() -> None:
    for model in (embedding("transposed"), quantize_weights(embedding("transposed"), Demands())[0]):
        last = fold(model).operations[-1]
        right = last.inputs[1]
        assert last.op_type == "MatMul" and right is not None and right.constant is not None and right.shape == (48, 192)
        assert "Transpose" not in [operation.op_type for operation in fold(model).operations]
        table = constant(embedding("transposed").graph.initializers["table"])
        assert table is not None
        scale = np.abs(table).max() / 127
        np.testing.assert_allclose(right.real(), table.T, atol=0 if right.encoding is None else scale)


def test_a_small_table_and_columns_of_one_stay_real() -> None:
    with pytest.raises(QuantizeError, match="no weight"):
        quantize_weights(embedding(rows=192, width=16), Demands())
    node = onnx.helper.make_node
    weights = {"w": np.ones((8, 4), np.float32), "table": np.ones((64, 128), np.float32)}
    nodes = [
        node("MatMul", ["x", "w"], ["m"]),
        node("ArgMax", ["m"], ["i"], axis=-1, keepdims=0),
        node("Gather", ["table", "i"], ["y"], axis=1),
    ]
    assert quantize_weights(hub(nodes, weights), Demands())[1].found == {"MatMul": 1}


def test_a_static_scheme_holds_tables_of_their_own_in_codes_and_tied_ones_as_they_are() -> None:
    node = onnx.helper.make_node
    random = np.random.default_rng(1)
    weights = {"w": random.standard_normal((8, 64)).astype(np.float32), "table": random.standard_normal((64, 128)).astype(np.float32)}
    nodes = [
        node("MatMul", ["x", "w"], ["m"]),
        node("ArgMax", ["m"], ["i"], axis=-1, keepdims=0),
        node("Gather", ["table", "i"], ["y"]),
    ]
    model = hub(nodes, weights)
    data = Samples({"x": random.uniform(-1, 1, (4, 1, 3, 8, 8)).astype(np.float32)})
    quantized, _ = quantize_static(model, observe(ir.to_proto(model), data, lambda done, total: None), Demands())
    (codes,) = _codes(quantized, 128)
    gather = next(operation for operation in fold(quantized).operations if operation.op_type == "Gather")
    assert gather.outputs[0].encoding is None and gather.inputs[0] is not None and gather.inputs[0].constant is not None
    np.testing.assert_array_equal(gather.inputs[0].constant, codes)


@pytest.mark.parametrize("tied", TIED)
@pytest.mark.parametrize("scheme", ["fp32", "fp16", "w8", "w8d8"])
def test_the_bytes_told_beforehand_are_those_of_the_hub_that_is_built(tied: str, scheme: str) -> None:
    model = embedding(tied)
    built = quantize_weights(model, Demands())[0] if scheme.startswith("w8") else model
    held = list(ir.to_proto(built).graph.initializer)
    width = {onnx.TensorProto.FLOAT: 2 if scheme == "fp16" else 4, onnx.TensorProto.INT8: 1, onnx.TensorProto.INT64: 8}
    assert stored_bytes(model, Scheme.parse(scheme)) == sum(width[each.data_type] * int(np.prod(each.dims)) for each in held)


def test_the_bytes_of_a_static_scheme_are_near_those_of_the_hub_that_is_built() -> None:
    """Of a network of layers alone: what is added are the scales and zero points of activations, a few dozen bytes each."""
    model = convolution()
    data = Samples({"x": np.random.default_rng(0).uniform(-1, 1, (4, 1, 3, 8, 8)).astype(np.float32)})
    quantized, _ = quantize_static(model, observe(ir.to_proto(model), data, lambda done, total: None), Demands())
    built = sum(held.size * held.dtype.itemsize for held in map(constant, quantized.graph.initializers.values()) if held is not None)
    assert 0 <= built - stored_bytes(model, Scheme.parse("w8a8")) < 0.25 * built
