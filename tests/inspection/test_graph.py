"""What is told of a graph, whatever the format."""

from __future__ import annotations

import numpy as np
import pytest

from edgepack.inspection.graph import Call, Constant, Graph, Scales, fused, largest, quantization, weights_by_dtype


def _codes(name: str, codes: np.ndarray, dtype: str = "int8", scale: object = 0.1, axis: int | None = None, block: int = 0) -> Constant:
    return Constant(name, dtype, codes.shape, codes.size, codes, Scales(np.asarray(scale, np.float64), axis, block))


FULL = np.arange(-127, 128).astype(np.int8)


def test_constants_are_grouped_by_stored_type_the_largest_first() -> None:
    held = [Constant("a", "float32", (4,), 16), Constant("b", "int8", (100,), 100), Constant("c", "float32", (2,), 8)]
    assert [(group.dtype, group.tensors, group.elements, group.bytes) for group in weights_by_dtype(held)] == [
        ("int8", 1, 100, 100),
        ("float32", 2, 6, 24),
    ]
    assert [tensor.name for tensor in largest(held)] == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("kinds", "constants", "name"),
    [
        (["real"], [Constant("w", "float32", (100,), 400)], "fp32"),
        (["real"], [Constant("w", "float16", (100,), 200), Constant("b", "float32", (4,), 16)], "fp16"),
        (["conversion", "integer"], [_codes("w", FULL)], "w8a8"),
        (["dynamic"], [_codes("w", FULL)], "w8d8"),
        (["real"], [_codes("w", FULL)], "w8"),
        (["real"], [_codes("w", FULL, "int4", np.ones((4, 8)), None, 32)], "w4b32"),
        (["real"], [_codes("v", FULL), _codes("w", FULL, "int4")], "mixed: weights of 4 and 8 bits"),
        (["real"], [Constant("w", "lut4", (100,), 50)], "weights in a lookup table"),
    ],
)
def test_a_scheme_is_called_what_edgepack_would_call_it(kinds: list[str], constants: list[Constant], name: str) -> None:
    calls = tuple(Call("op", ("x",), (f"y{index}",), kind) for index, kind in enumerate(kinds))
    assert quantization(Graph(calls, {held.name: held for held in constants})).scheme == name


def _chain(*calls: tuple[str, str]) -> tuple[Call, ...]:
    """Operators one after the other, each with its kind."""
    return tuple(Call(operator, (f"t{index}",), (f"t{index + 1}",), kind) for index, (operator, kind) in enumerate(calls))


def test_integer_operators_that_only_a_real_one_connects_are_two_groups_and_it_is_named() -> None:
    calls = _chain(
        ("QUANTIZE", "conversion"),
        ("CONV_2D", "integer"),
        ("DEQUANTIZE", "conversion"),
        ("HARD_SWISH", "real"),
        ("QUANTIZE", "conversion"),
        ("CONV_2D", "integer"),
        ("DEQUANTIZE", "conversion"),
        ("SOFTMAX", "real"),
    )
    found = quantization(Graph(calls, {}))
    assert (found.islands, found.real_between) == (2, {"HARD_SWISH": 1})


def test_integer_operators_in_a_row_are_one_group() -> None:
    calls = _chain(
        ("QUANTIZE", "conversion"), ("CONV_2D", "integer"), ("ADD", "integer"), ("DEQUANTIZE", "conversion"), ("SOFTMAX", "real")
    )
    found = quantization(Graph(calls, {}))
    assert (found.islands, found.real_between) == (1, {})


def test_an_operator_between_conversions_is_integer_and_so_is_the_activation_it_takes_along() -> None:
    spelled = _chain(
        ("QuantizeLinear", "conversion"),
        ("DequantizeLinear", "conversion"),
        ("Conv", "real"),
        ("Relu", "real"),
        ("QuantizeLinear", "conversion"),
        ("DequantizeLinear", "conversion"),
        ("Softmax", "real"),
    )
    assert [call.kind for call in fused(spelled, "QuantizeLinear", "DequantizeLinear") if call.kind != "conversion"] == [
        "integer",
        "integer",
        "real",
    ]


def test_a_zero_scale_is_suspicious() -> None:
    held = _codes("w", FULL.reshape(5, 51), scale=[0.1, 0.0, 0.1, 0.1, 0.1], axis=0)
    assert quantization(Graph((), {"w": held})).suspicious == ("a scale of 'w' is zero, negative or not finite",)
    assert quantization(Graph((), {}, {"x": Scales(np.asarray(np.nan))})).suspicious == ("a scale of 'x' is zero, negative or not finite",)


def test_weights_that_use_less_than_half_of_their_codes_are_suspicious() -> None:
    narrow = quantization(Graph((), {"w": _codes("w", FULL // 3)})).suspicious
    assert narrow == ("'w' uses codes -43..42, less than half of int8",)
    assert quantization(Graph((), {"w": _codes("w", FULL)})).suspicious == ()


def test_channels_are_judged_one_by_one_and_empty_ones_are_not() -> None:
    rows = np.stack([FULL, FULL // 4, FULL // 4, np.zeros_like(FULL)])
    held = _codes("w", rows, scale=[1.0] * 4, axis=0)
    assert quantization(Graph((), {"w": held})).suspicious == ()
    held = _codes("w", rows[:3], scale=[1.0] * 3, axis=0)
    assert quantization(Graph((), {"w": held})).suspicious == ("'w': 2 of 3 channels use less than half of their codes",)


def test_many_lines_of_a_kind_are_counted() -> None:
    held = {f"w{index}": _codes(f"w{index}", FULL // 3) for index in range(7)}
    lines = quantization(Graph((), held)).suspicious
    assert len(lines) == 4
    assert lines[-1] == "and 4 more weights that use less than half of their codes"
