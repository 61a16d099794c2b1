"""Probes are static models at sizes that tell a rule from a coincidence."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edgepack.hub.canonical import canonicalize
from edgepack.hub.graph import HubError, static_shape
from edgepack.hub.probe import assignments, probes, symbol_sizes
from tests.hub.graphs import model, normal, onnxruntime_run

node = helper.make_node


def summed() -> onnx.ModelProto:
    """(batch, 5, length) -> (batch, length): the mean over 5."""
    return model(
        [node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)], {"x": ["batch", 5, "length"]}, {"y": None}, {"axes": np.asarray([1])}
    )


def test_every_probe_is_static_and_answers_as_the_hub() -> None:
    hub = canonicalize(summed(), {"x": normal(1, 5, 7)}).model
    found = probes(hub, {"x": (1, 5, 7)}, {"length": (1, 40)})
    for probe in found:
        shape = (1, 5, probe.sizes["length"])
        assert static_shape(probe.model.graph.inputs[0]) == shape
        feed = {"x": normal(*shape)}
        np.testing.assert_array_equal(onnxruntime_run(ir.to_proto(probe.model), feed)["y"], onnxruntime_run(summed(), feed)["y"])
    assert found[0].sizes == {"length": 7} and found[-1].sizes == {"length": 40}


@given(st.integers(1, 300), st.integers(0, 40), st.integers(0, 10**6), st.data())
def test_probes_lie_in_the_range_have_neighbours_and_no_size_of_1(low: int, before: int, after: int, data: st.DataObject) -> None:
    high = low + before + after
    example = low + before
    if high - max(low, 2) + 1 < 3:
        with pytest.raises(HubError, match="fewer than 3 sizes"):
            assignments({"n": example}, {"n": (low, high)})
        return
    sizes = [held["n"] for held in assignments({"n": example}, {"n": (low, high)}, frozenset({data.draw(st.integers(1, 400))}))]
    assert len(set(sizes)) == len(sizes) >= 3 and sizes[-1] == high
    assert all(max(low, 2) <= size <= high for size in sizes)
    assert any(size + 1 in sizes for size in sizes)


def test_symbols_move_one_by_one_and_then_together() -> None:
    held = assignments({"n": 1, "t": 16}, {"n": (1, 8), "t": (1, 128)})
    base = held[0]
    assert base["t"] == 16 and base["n"] > 1
    assert held[-1] == {"n": 8, "t": 128}
    assert all(sum(probe[symbol] != base[symbol] for symbol in base) == 1 for probe in held[1:-1])


def test_probes_avoid_the_sizes_of_the_model() -> None:
    sizes = [held["n"] for held in assignments({"n": 1}, {"n": (1, 24)}, frozenset({9, 10, 11, 12}))]
    assert not {9, 10, 11, 12} & {*sizes}


def test_a_size_that_the_model_fixed_is_refused() -> None:
    fixed = canonicalize(model([node("Relu", ["x"], ["y"])], {"x": [1, 4]}, {"y": None}), {"x": normal(1, 4)}).model
    with pytest.raises(HubError, match="no symbol 'batch' in its inputs"):
        probes(fixed, {"x": (1, 4)}, {"batch": (1, 8)})


def test_symbols_are_read_off_the_shapes() -> None:
    hub = canonicalize(summed(), {"x": normal(1, 5, 7)}).model
    assert symbol_sizes(hub, {"x": (2, 5, 9)}) == {"batch": 2, "length": 9}
