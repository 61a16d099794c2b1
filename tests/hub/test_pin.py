"""Pinned models are static and compute the same."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from edgepack.hub.canonical import canonicalize
from edgepack.hub.graph import HubError, static_shape
from edgepack.hub.pin import pinned, symbols
from tests.hub.graphs import model, normal, onnxruntime_run

node = helper.make_node


def open_model() -> onnx.ModelProto:
    """Flattens (batch, 3, h, w) by a shape that is computed at run time, and scales by the number of samples."""
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "zero"], ["n"]),
        node("Concat", ["n", "rest"], ["target"], axis=0),
        node("Relu", ["x"], ["r"]),
        node("Reshape", ["r", "target"], ["f"]),
        node("Cast", ["n"], ["scale"], to=1),
        node("Mul", ["f", "scale"], ["y"]),
    ]
    held = {"zero": np.asarray([0]), "rest": np.asarray([-1])}
    return model(nodes, {"x": ["batch", 3, "h", "w"]}, {"y": None}, held)


def test_symbols_are_listed_once_and_sorted() -> None:
    assert symbols(ir.from_proto(open_model())) == ["batch", "h", "w"]
    assert symbols(ir.from_proto(model([node("Relu", ["x"], ["y"])], {"x": [1]}, {"y": None}))) == []


@pytest.mark.parametrize("sizes", [(1, 3, 8, 8), (4, 3, 5, 2)])
def test_a_pinned_model_is_static_throughout_and_answers_as_the_open_one(sizes: tuple[int, ...]) -> None:
    hub = canonicalize(open_model(), {"x": normal(1, 3, 4, 4)}).model
    fixed = pinned(hub, {"x": sizes})
    assert symbols(fixed) == [] and symbols(hub) == ["batch", "h", "w"]
    values = [*fixed.graph.inputs, *(value for held in fixed.graph for value in held.outputs)]
    assert all(all(isinstance(size, int) for size in static_shape(value)) for value in values)
    assert "Shape" not in [held.op_type for held in fixed.graph]
    proto = ir.to_proto(fixed)
    onnx.checker.check_model(proto, full_check=True)
    feed = {"x": normal(*sizes, seed=3)}
    np.testing.assert_array_equal(onnxruntime_run(proto, feed)["y"], onnxruntime_run(open_model(), feed)["y"])
    assert static_shape(fixed.graph.outputs[0]) == onnxruntime_run(proto, feed)["y"].shape


def test_a_symbolic_value_has_no_static_shape() -> None:
    with pytest.raises(HubError, match="value 'x' has no static shape"):
        static_shape(ir.from_proto(open_model()).graph.inputs[0])


def two_inputs() -> onnx.ModelProto:
    """Two inputs of one batch, as opset 9 spells them."""
    return model([node("Add", ["a", "b"], ["y"])], {"a": ["batch", 3], "b": ["batch", 3]}, {"y": ["batch", 3]}, opset=9)


def test_a_model_of_opset_9_with_a_dynamic_batch_is_converted_and_pinned() -> None:
    hub = canonicalize(two_inputs(), {"a": normal(2, 3), "b": normal(2, 3, seed=1)}).model
    assert symbols(hub) == ["batch"] and hub.opset_imports[""] == 21
    fixed = ir.to_proto(pinned(hub, {"a": (4, 3), "b": (4, 3)}))
    feed = {"a": normal(4, 3), "b": normal(4, 3, seed=1)}
    np.testing.assert_array_equal(onnxruntime_run(fixed, feed)["y"], onnxruntime_run(two_inputs(), feed)["y"])


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ({"a": (2, 3), "b": (4, 3)}, "dimension 'batch' is pinned to 2 in input 'a' and to 4 in input 'b'"),
        ({"a": (2, 5), "b": (2, 3)}, r"input 'a' is declared as .* and pinned to \[2, 5\]"),
        ({"a": (2, 3), "b": (2, 3, 1)}, r"input 'b' is declared as .* and pinned to \[2, 3, 1\]"),
    ],
)
def test_sizes_that_disagree_with_the_declaration_are_refused(sizes: dict[str, tuple[int, ...]], why: str) -> None:
    hub = canonicalize(two_inputs(), {"a": normal(2, 3), "b": normal(2, 3)}).model
    with pytest.raises(HubError, match=why):
        pinned(hub, sizes)


def test_a_group_normalization_keeps_its_shape_when_pinned() -> None:
    nodes = [node("GroupNormalization", ["x", "scale", "bias"], ["g"], num_groups=2), node("Relu", ["g"], ["y"])]
    hub = canonicalize(model(nodes, {"x": [1, 4, "n"]}, {"y": None}, {"scale": normal(4), "bias": normal(4)}), {"x": normal(1, 4, 6)}).model
    fixed = pinned(hub, {"x": (1, 4, 9)})
    assert static_shape(fixed.graph.outputs[0]) == (1, 4, 9)
    feed = {"x": normal(1, 4, 9)}
    np.testing.assert_array_equal(onnxruntime_run(ir.to_proto(fixed), feed)["y"], onnxruntime_run(ir.to_proto(hub), feed)["y"])
