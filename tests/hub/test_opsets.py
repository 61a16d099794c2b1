"""Models of other opsets: what is renumbered, what is written as a function, and that both compute the same."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edgepack.hub.functions import expanded, is_newer_than_hub
from edgepack.hub.graph import HubError
from edgepack.hub.opsets import at_opset
from tests.hub.graphs import FP32, canonical, model, normal, onnxruntime_run, operators

node = helper.make_node
HEADS = {"q": [2, 4, 3, 8], "k": [2, 2, 5, 8], "v": [2, 2, 5, 6]}
ROWS = {"x": [2, 3, 8]}


def attention(opset: int, mask: str = "", **attributes: Any) -> onnx.ModelProto:
    inputs = HEADS | ({"m": [3, 5]} if mask else {})
    return model([node("Attention", [*HEADS, *([mask] if mask else [])], ["y"], **attributes)], inputs, {"y": [2, 4, 3, 6]}, opset=opset)


def feed_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    sizes = {held.name: [size.dim_value for size in held.type.tensor_type.shape.dim] for held in proto.graph.input}
    return {name: normal(*shape, seed=index) for index, (name, shape) in enumerate(sizes.items())}


NEWER = {
    "attention": attention(23),
    "attention that looks back": attention(24, is_causal=1),
    "attention with a mask": attention(25, "m", softcap=2.0, scale=0.3),
    "root mean square": model(
        [node("RMSNormalization", ["x", "g"], ["y"], epsilon=1e-3)], ROWS, ROWS_OUT := {"y": [2, 3, 8]}, {"g": normal(8)}, opset=23
    ),
    "swish": model([node("Swish", ["x"], ["y"], alpha=0.7)], ROWS, ROWS_OUT, opset=24),
    "swish by default": model([node("Swish", ["x"], ["y"])], ROWS, ROWS_OUT, opset=24),
    "gated": model([node("SwiGLU", ["x", "x"], ["y"])], ROWS, ROWS_OUT, opset=28),
    "rotary": model(
        [node("RotaryEmbedding", ["x", "c", "s", "p"], ["y"], interleaved=1)],
        {"x": [1, 2, 3, 8]},
        {"y": [1, 2, 3, 8]},
        {"c": normal(9, 4), "s": normal(9, 4, seed=1), "p": np.asarray([[0, 4, 8]])},
        opset=23,
    ),
}


@pytest.mark.parametrize("name", NEWER)
def test_an_operator_that_came_later_is_written_as_its_function(name: str) -> None:
    proto = NEWER[name]
    feed = feed_of(proto)
    (wanted,) = ReferenceEvaluator(proto).run(None, feed)
    form, _ = canonical(proto, feed)
    assert form.opset_import[0].version == 21
    assert not {"Attention", "RMSNormalization", "Swish", "SwiGLU", "RotaryEmbedding", "CastLike", "Shape"} & set(operators(form))
    np.testing.assert_allclose(onnxruntime_run(form, feed)["y"], wanted, rtol=FP32, atol=FP32)


@pytest.mark.parametrize("flags", [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_running_product_is_a_product_of_what_comes_before(flags: dict[str, int], axis: int) -> None:
    proto = model([node("CumProd", ["x", "a"], ["y"], **flags)], ROWS, ROWS_OUT, {"a": np.asarray(axis)}, opset=26)
    feed = {"x": normal(*ROWS["x"])}
    (wanted,) = ReferenceEvaluator(proto).run(None, feed)
    form, _ = canonical(proto, feed)
    np.testing.assert_allclose(onnxruntime_run(form, feed)["y"], wanted, rtol=FP32, atol=FP32)


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_signed_numbers_are_shifted_by_any_amount(direction: str) -> None:
    lowest, highest = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    x = np.asarray([lowest, -17, -1, 0, 1, 17, highest], np.int32)[:, None]
    y = np.asarray([-3, 0, 1, 4, 30, 31, 32, 99], np.int32)[None]
    types = dict.fromkeys("xyz", TensorProto.INT32)
    proto = model(
        [node("BitShift", ["x", "y"], ["z"], direction=direction)], {"x": [7, 1], "y": [1, 8]}, {"z": [7, 8]}, opset=28, types=types
    )
    (given,) = onnxruntime_run(at_opset(proto), {"x": x, "y": y}).values()
    amount = np.clip(y.astype(np.int64), 0, 32)
    whole = (x.astype(np.int64) << amount if direction == "LEFT" else x.astype(np.int64) >> amount).astype(np.int32)
    filled = 0 if direction == "LEFT" else np.where(x < 0, -1, 0)
    assert np.array_equal(given, np.where((y >= 0) & (y < 32), whole, filled))


def test_unsigned_numbers_keep_their_shift() -> None:
    types = dict.fromkeys("xyz", TensorProto.UINT32)
    proto = model([node("BitShift", ["x", "y"], ["z"], direction="LEFT")], {"x": [3], "y": [3]}, {"z": [3]}, opset=28, types=types)
    assert [held.op_type for held in at_opset(proto).graph.node] == ["BitShift"]


def test_attention_ends_in_two_products_and_one_softmax() -> None:
    """What is known of shapes and masks is folded: scaling both sides, the products, the softmax, and the repeats of grouped heads."""
    form, _ = canonical(attention(23, is_causal=1), feed_of(attention(23)))
    names = operators(form)
    assert (names.count("MatMul"), names.count("Softmax")) == (2, 1)
    assert len(names) < 20


def test_a_newer_model_of_operators_that_the_hub_has_is_renumbered() -> None:
    proto = model([node("Transpose", ["x"], ["t"]), node("Cast", ["t"], ["y"], to=6, round_mode="up")], ROWS, {"y": [8, 3, 2]}, opset=28)
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    form = at_opset(proto)
    assert form.opset_import[0].version == 21 and form.ir_version == 10
    assert [held.name for held in form.graph.node[1].attribute] == ["to"]


def test_an_attribute_that_the_hub_cannot_say_is_refused() -> None:
    nodes = [node("QuantizeLinear", ["x", "s"], ["y"], precision=TensorProto.FLOAT16)]
    proto = model(nodes, ROWS, {"y": [2, 3, 8]}, {"s": np.float32(0.1)}, opset=25, types={"y": TensorProto.UINT8})
    with pytest.raises(HubError, match="opset 25 cannot be converted to 21"):
        at_opset(proto)


def test_a_function_in_a_subgraph_is_written_out_too() -> None:
    branch = helper.make_graph([node("Swish", ["x"], ["z"])], "then", [], [helper.make_tensor_value_info("z", 1, [2, 3, 8])])
    other = helper.make_graph([node("Identity", ["x"], ["w"])], "else", [], [helper.make_tensor_value_info("w", 1, [2, 3, 8])])
    held = {"c": np.asarray(True)}
    proto = model([node("If", ["c"], ["y"], then_branch=branch, else_branch=other)], ROWS, {"y": [2, 3, 8]}, held, opset=24)
    written = expanded(proto, is_newer_than_hub)
    feed = {"x": normal(2, 3, 8)}
    assert not any(map(is_newer_than_hub, written.graph.node[0].attribute[0].g.node))
    np.testing.assert_allclose(
        ReferenceEvaluator(at_opset(proto)).run(None, feed)[0], ReferenceEvaluator(proto).run(None, feed)[0], rtol=1e-6
    )


def test_an_older_model_of_unchanged_operators_keeps_its_nodes() -> None:
    types = dict.fromkeys("xyz", TensorProto.BOOL)
    proto = model([node("And", ["x", "y"], ["z"])], {"x": [2, 3], "y": [3]}, {"z": [2, 3]}, opset=7, types=types)
    assert [held.op_type for held in at_opset(proto).graph.node] == ["And"]
