"""The fuzzer as a test: a few graphs of each scheme by default, two thousand under ``-m slow``; and that it would see a defect."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.conformance.worker import PASS, WRONG
from tests.fuzz.builder import Graph, run_model
from tests.fuzz.operators import QUANTIZABLE, STRATEGIES, graph_of
from tests.fuzz.oracle import expected
from tests.fuzz.run import FORMATS, MAX_DISCARDED, Campaign, discarded_part, failures, run
from tests.fuzz.shrink import shrink
from tests.fuzz.worker import judge
from tests.old_runtime import demanded

# Of the formats with kernels of their own, at least this part of random graphs converts; measured 0.91 to 1.
_CONVERTS = 0.7


def check(campaign: Campaign, jobs: int = 1) -> None:
    records = run(campaign, jobs)
    assert failures(records) == []
    assert discarded_part(records) <= MAX_DISCARDED
    for name in campaign.formats:
        passed = sum(record.results[name].outcome == PASS for record in records)
        assert passed >= _CONVERTS * len(records), name


@pytest.mark.parametrize("scheme", ["fp32", "w8a8"])
def test_random_graphs_are_right_or_refused_in_every_format(scheme: str) -> None:
    check(Campaign(graphs=40, seed=0, scheme=scheme))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["fp32", "w8a8"])
def test_two_thousand_random_graphs_are_right_or_refused_in_every_format(scheme: str) -> None:
    check(Campaign(graphs=2000, seed=20, scheme=scheme), jobs=2)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["fp32", "w8a8"])
def test_two_thousand_random_graphs_are_right_or_refused_in_tensorflow_lite_2_14(scheme: str) -> None:
    demanded()
    check(Campaign(graphs=2000, seed=20, formats=("tflite@2.14",), scheme=scheme), jobs=2)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**62), quantizable=st.booleans())
def test_what_is_drawn_is_valid_onnx_and_the_same_for_the_same_seed(seed: int, quantizable: bool) -> None:
    drawn = graph_of((seed,), quantizable)
    if drawn is None:
        return
    assert len(run_model(drawn.model, drawn.feed)) == len(drawn.model.graph.output)
    again = graph_of((seed,), quantizable)
    assert again is not None and again.model.SerializeToString() == drawn.model.SerializeToString()
    assert not quantizable or len(drawn.feed) == 1


def test_every_operator_is_drawn() -> None:
    drawn = {operator for seed in range(600) if (held := graph_of((7, seed))) for operator in held.operators}
    assert set(STRATEGIES) - drawn == set()
    assert set(QUANTIZABLE) <= set(STRATEGIES)


def chain() -> Graph:
    nodes = [helper.make_node("Sigmoid", ["x"], ["a"]), helper.make_node("Exp", ["a"], ["b"]), helper.make_node("Floor", ["b"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 5]) for name in ("x", "b", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    x = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), {"x": x})


def test_an_error_of_one_part_in_ten_thousand_is_wrong_and_rounding_is_not() -> None:
    held = chain()
    wanted = expected(held.model, held.feed)
    given_ = dict(zip(("b", "y"), run_model(held.model, held.feed), strict=True))
    assert judge(given_, wanted).outcome == PASS
    assert judge({**given_, "b": given_["b"] * np.float32(1 + 2**-23)}, wanted).outcome == PASS
    assert judge({**given_, "b": given_["b"] * np.float32(1.0001)}, wanted).outcome == WRONG
    assert judge({**given_, "y": given_["y"] + np.float32(1)}, wanted).outcome == WRONG


def test_a_result_of_another_shape_or_not_finite_is_wrong() -> None:
    held = chain()
    wanted = expected(held.model, held.feed)
    given_ = dict(zip(("b", "y"), run_model(held.model, held.feed), strict=True))
    assert judge({**given_, "b": given_["b"].reshape(5, 2)}, wanted).outcome == WRONG
    assert judge({**given_, "b": np.where(given_["b"] > 2, np.float32(np.nan), given_["b"])}, wanted).outcome == WRONG


def test_shrinking_finds_the_node_that_fails() -> None:
    smallest = shrink(chain(), lambda part: "Exp" in part.operators)
    assert smallest.operators == ["Exp"]
    onnx.checker.check_model(smallest.model, full_check=True)


def test_all_formats_are_tried() -> None:
    assert set(FORMATS) == {"tflite", "coreml", "ort"}
