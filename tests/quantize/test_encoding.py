"""Codes and reals, against onnxruntime's QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgepack.quantize.encoding import Encoding, codes_as_int8


def _ort(op_type: str, array: np.ndarray, encoding: Encoding) -> np.ndarray:
    from edgepack.hub.canonical import run_plain

    kinds = (helper.np_dtype_to_tensor_dtype(array.dtype), helper.np_dtype_to_tensor_dtype(np.dtype(encoding.dtype)))
    result = kinds[1] if op_type == "QuantizeLinear" else TensorProto.FLOAT
    attributes = {} if encoding.axis is None else {"axis": encoding.axis}
    graph = helper.make_graph(
        [helper.make_node(op_type, ["x", "s", "z"], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", kinds[0], array.shape)],
        [helper.make_tensor_value_info("y", result, array.shape)],
        [numpy_helper.from_array(encoding.scale, "s"), numpy_helper.from_array(encoding.zero_point, "z")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return run_plain(model, {"x": array})["y"]


def _encoding(dtype: str, channels: int | None, seed: int) -> Encoding:
    random = np.random.default_rng(seed)
    shape = () if channels is None else (channels,)
    # Powers of two: dividing by them is exact, so float32 (onnxruntime) and float64 (here) meet the same ties.
    scale = np.asarray(2.0 ** random.integers(-8, -2, shape), np.float32)
    zero_point = np.asarray(random.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape), dtype)
    return Encoding(scale, zero_point, dtype, None if channels is None else 1)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["uint8", "int8"]), st.sampled_from([None, 4]), st.integers(0, 2**31))
def test_codes_and_reals_equal_onnxruntime_bit_for_bit(dtype: str, channels: int | None, seed: int) -> None:
    encoding = _encoding(dtype, channels, seed)
    real = np.random.default_rng(seed + 1).uniform(-3, 3, (2, 4, 5)).astype(np.float32)
    codes = encoding.quantize(real)
    np.testing.assert_array_equal(codes, _ort("QuantizeLinear", real, encoding))
    np.testing.assert_array_equal(encoding.dequantize(codes), _ort("DequantizeLinear", codes, encoding))


def test_ties_round_to_even() -> None:
    encoding = Encoding(np.float32(1).reshape(()), np.asarray(0, np.int8), "int8")
    np.testing.assert_array_equal(encoding.quantize(np.asarray([0.5, 1.5, 2.5, -0.5, -1.5])), [0, 2, 2, 0, -2])


def test_shifting_to_int8_keeps_every_real_number() -> None:
    encoding = Encoding(np.asarray(0.037, np.float32), np.asarray(77, np.uint8), "uint8")
    codes = np.arange(256, dtype=np.uint8)
    shifted = encoding.as_int8()
    assert (shifted.dtype, int(shifted.zero_point)) == ("int8", -51)
    np.testing.assert_array_equal(shifted.dequantize(codes_as_int8(codes)), encoding.dequantize(codes))


@pytest.mark.parametrize("other", ["scale", "zero_point", "dtype", "axis"])
def test_two_encodings_are_the_same_only_when_every_part_is(other: str) -> None:
    held = Encoding(np.asarray([0.5], np.float32), np.asarray([1], np.int8), "int8", 0)
    changed = {
        "scale": Encoding(np.asarray([0.25], np.float32), held.zero_point, "int8", 0),
        "zero_point": Encoding(held.scale, np.asarray([2], np.int8), "int8", 0),
        "dtype": Encoding(held.scale, np.asarray([1], np.uint8), "uint8", 0),
        "axis": Encoding(held.scale, held.zero_point, "int8", 1),
    }[other]
    assert held.same_as(held)
    assert not held.same_as(changed)
    assert not held.same_as(None)
