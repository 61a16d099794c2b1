"""What declared shapes say of inputs of run time, and where they leave it open."""

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.hub.graphs import FP32, canonical, model, normal, onnxruntime_run, operators

node = helper.make_node
# operator, data shape, what comes in at run time, output shapes, attributes.
Case = tuple[str, list[int], list[int], list[list[int]], dict[str, Any]]
SETTLED: dict[str, Case] = {
    "reduction that keeps axes": ("ReduceSum", [3, 2, 4], [1], [[3, 1, 4]], {}),
    "reduction of axes of size 1": ("ReduceMean", [1, 2, 1], [0], [[1, 2, 1]], {}),
    "reduction of one of different axes": ("ReduceMax", [3, 2, 4], [-1], [[3, 2]], {"keepdims": 0}),
    "reduction of one of two axes of size 1": ("ReduceL2", [1, 1, 4], [0], [[1, 4]], {"keepdims": 0}),
    "reduction of everything": ("ReduceProd", [3, 2], [], [[1, 1]], {}),
    "no reduction": ("ReduceL1", [3, 2], [], [[3, 2]], {"noop_with_empty_axes": 1}),
    "parts": ("Split", [2, 7], [2, 4, 1], [[2, 2], [2, 4], [2, 1]], {"axis": 1}),
    "expansion": ("Expand", [3, 1], [2, 1, 4], [[2, 3, 4]], {}),
    "repeats": ("Tile", [3, 2], [2, 1], [[6, 2]], {}),
    "squeeze": ("Squeeze", [1, 3, 1], [0], [[3, 1]], {}),
    "unsqueeze": ("Unsqueeze", [3, 1], [0, 2], [[1, 3, 1, 1]], {}),
    "sizes": ("Resize", [1, 1, 4, 4], [1, 1, 7, 5], [[1, 1, 7, 5]], {"mode": "linear"}),
}
OPEN: dict[str, Case] = {
    "either of two equal axes": ("ReduceSum", [3, 3, 2], [0], [[3, 2]], {"keepdims": 0}),
    "a pad on either side": ("Pad", [3], [1, 0], [[4]], {}),
    "an aspect ratio": ("Resize", [1, 1, 4, 4], [1, 1, 7, 7], [[1, 1, 7, 7]], {"keep_aspect_ratio_policy": "not_larger"}),
}


def declared(case: Case) -> tuple[Any, dict[str, Any]]:
    operator, shape, value, results, attributes = case
    inputs = ["x", "", "", "a"] if operator == "Resize" else ["x", "a"]
    names = [f"y{index}" for index in range(len(results))]
    ends = {"x": shape, "a": [len(value)]}
    proto = model(
        [node(operator, inputs, names, **attributes)], ends, dict(zip(names, results, strict=True)), types={"a": TensorProto.INT64}
    )
    return proto, {"x": normal(*shape), "a": np.asarray(value, np.int64)}


def reads(proto: Any) -> set[str]:
    return {name for held in proto.graph.node for name in held.input}


@pytest.mark.parametrize("name", SETTLED)
def test_a_value_the_shapes_leave_no_choice_about_is_written_down(name: str) -> None:
    proto, feed = declared(SETTLED[name])
    form, _ = canonical(proto, feed)
    assert "a" not in reads(form)
    wanted, given = onnxruntime_run(proto, feed), onnxruntime_run(form, feed)
    for held in wanted:
        np.testing.assert_allclose(given[held], wanted[held], rtol=FP32, atol=FP32)


@pytest.mark.parametrize("name", OPEN)
def test_a_value_that_may_be_another_stays_an_input(name: str) -> None:
    form, _ = canonical(*declared(OPEN[name]))
    assert "a" in reads(form)


def test_shapes_are_carried_back_through_elementwise_operators() -> None:
    nodes = [node("ReduceSum", ["x", "a"], ["s"]), node("Sqrt", ["s"], ["r"]), node("Neg", ["r"], ["y"])]
    proto = model(nodes, {"x": [3, 2], "a": [1]}, {"y": [3, 1]}, types={"a": TensorProto.INT64})
    form, _ = canonical(proto, {"x": np.abs(normal(3, 2)), "a": np.asarray([1])})
    assert "a" not in reads(form)


@pytest.mark.parametrize("start", [[1, 0], [-3, -1], [2, 1]])
def test_a_slice_of_declared_length_begins_where_the_run_says(start: list[int]) -> None:
    nodes = [node("Add", ["s", "length"], ["e"]), node("Slice", ["x", "s", "e", "axes"], ["y"])]
    held = {"length": np.asarray([3, 1]), "axes": np.asarray([0, -1])}
    proto = model(nodes, {"x": [5, 2, 3], "s": [2]}, {"y": [3, 2, 1]}, held, types={"s": TensorProto.INT64})
    x = normal(5, 2, 3)
    form, _ = canonical(proto, {"x": x, "s": np.asarray([1, 1])})
    assert "Slice" not in [node.op_type for node in form.graph.node]
    first, last = (min(max(place + size if place < 0 else place, 0), most) for place, size, most in zip(start, (5, 3), (2, 2), strict=True))
    np.testing.assert_array_equal(onnxruntime_run(form, {"x": x, "s": np.asarray(start)})["y"], x[first : first + 3, :, last : last + 1])


def test_a_slice_whose_steps_come_in_stays() -> None:
    proto = model(
        [node("Slice", ["x", "s", "e", "", "t"], ["y"])],
        {"x": [4], "s": [1], "e": [1], "t": [1]},
        {"y": [2]},
        types=dict.fromkeys("set", TensorProto.INT64),
    )
    form, _ = canonical(proto, {"x": normal(4), "s": np.asarray([0]), "e": np.asarray([4]), "t": np.asarray([2])})
    assert operators(form) == ["Slice"]
