"""Operators that came after the hub's opset, in older words."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edgepack.hub.later import spelled

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize("axis", [-2, 1])
@pytest.mark.parametrize("written", [True, False], ids=["written_from", "from_zero"])
def test_a_cache_is_written_as_by_onnxs_own_evaluator(mode: str, axis: int, written: bool) -> None:
    shape, update = [2, 6, 5, 3], [2, 6, 5, 3]
    update[axis] = 2
    first = np.asarray([1, 4 if mode == "circular" else 3])
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, held) for name, held in (("c", shape), ("u", update))]
    inputs += [helper.make_tensor_value_info("w", TensorProto.INT64, [2])] if written else []
    node = helper.make_node("TensorScatter", ["c", "u", "w"] if written else ["c", "u"], ["y"], axis=axis, mode=mode)
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])
    feed = {"c": RNG.standard_normal(shape).astype(np.float32), "u": RNG.standard_normal(update).astype(np.float32)}
    feed |= {"w": first} if written else {}
    older = spelled(model)
    assert "TensorScatter" not in [held.op_type for held in older.graph.node]
    onnx.checker.check_model(older, full_check=True)
    np.testing.assert_array_equal(ReferenceEvaluator(older).run(None, feed)[0], ReferenceEvaluator(model).run(None, feed)[0])
