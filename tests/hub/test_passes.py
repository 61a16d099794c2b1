"""Each rewrite: what it leaves, that it computes the same, and that breaking its contract is reported under its name."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from edgepack.hub.graph import HubError
from edgepack.hub.passes import Rewrite, after_pinning, drop_unused, sequence
from tests.hub.graphs import attributes, batch_norm, canonical, kept, model, normal, onnxruntime_run, operators, weights

node = helper.make_node
X = {"x": [1, 4, 8, 8]}
Y = {"y": None}
BN = node("BatchNormalization", ["c", "s", "b", "m", "v"], ["y"])


@pytest.mark.parametrize(
    ("linear", "weight", "inputs"),
    [
        (node("Conv", ["x", "w"], ["c"]), normal(4, 4, 3, 3), X),
        (node("Conv", ["x", "w", "k"], ["c"], group=4, pads=[1, 1, 1, 1]), normal(4, 1, 3, 3), X),
        (node("ConvTranspose", ["x", "w"], ["c"], strides=[2, 2]), normal(4, 4, 3, 3), X),
        (node("ConvTranspose", ["x", "w", "k"], ["c"], group=2), normal(4, 2, 3, 3), X),
        (node("Gemm", ["x", "w"], ["c"]), normal(3, 4), {"x": [2, 3]}),
        (node("Gemm", ["x", "w", "k"], ["c"], transB=1, alpha=0.5, beta=2.0), normal(4, 3), {"x": [2, 3]}),
    ],
    ids=["conv", "depthwise with bias", "transposed", "transposed groups with bias", "gemm", "scaled gemm with bias"],
)
def test_batch_normalization_goes_into_the_layer_before_it(linear: onnx.NodeProto, weight: np.ndarray, inputs: Any) -> None:
    form = kept([linear, BN], {"w": weight, "k": normal(4, seed=5), **batch_norm(4)}, inputs)
    assert operators(form) == [linear.op_type]


@pytest.mark.parametrize("why", ["output", "shared weights", "two readers", "computed weights"])
def test_batch_normalization_stays_where_folding_it_would_change_another_value(why: str) -> None:
    held = {"w": normal(4, 4, 3, 3), **batch_norm(4)}
    conv = node("Conv", ["x", "w"], ["c"])
    if why == "output":
        form = kept([conv, BN], held, outputs={"y": None, "c": None})
    elif why == "shared weights":
        form = kept([conv, BN, node("Conv", ["x", "w"], ["z"], strides=[2, 2])], held, outputs={"y": None, "z": None})
    elif why == "two readers":
        form = kept([conv, BN, node("Relu", ["c"], ["z"])], held, outputs={"y": None, "z": None})
    else:
        held.pop("w")
        form = kept([node("Gemm", ["x", "w"], ["c"]), BN], held, {"x": [2, 3], "w": [3, 4]})
    assert "BatchNormalization" in operators(form)


@pytest.mark.parametrize("bias", [(), (1,), (5,), (1, 5), (1, 1), None], ids=str)
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0)])
def test_gemm_becomes_a_plain_layer_with_one_bias_an_output(
    bias: tuple[int, ...] | None, transposed: int, alpha: float, beta: float
) -> None:
    held = {"w": normal(5, 3) if transposed else normal(3, 5)}
    if bias is not None:
        held["k"] = np.asarray(normal(*bias, seed=2), np.float32)
    gemm = node("Gemm", ["x", *held], ["y"], alpha=alpha, beta=beta, transB=transposed)
    form = kept([gemm], held, {"x": [2, 3]})
    assert attributes(form) == {"transB": 1}
    assert [array.shape for array in weights(form)] == ([(5, 3)] if bias is None else [(5, 3), (5,)])


def test_a_gemm_weight_that_another_node_reads_keeps_its_value_there() -> None:
    nodes = [node("Gemm", ["x", "w"], ["g"], alpha=3.0), node("MatMul", ["x", "w"], ["p"]), node("Add", ["g", "p"], ["y"])]
    kept(nodes, {"w": normal(3, 5)}, {"x": [2, 3]})


def test_a_transposed_input_is_turned_by_a_node_of_its_own() -> None:
    form = kept([node("Gemm", ["x", "w"], ["y"], transA=1)], {"w": normal(3, 5)}, {"x": [3, 2]})
    assert operators(form) == ["Transpose", "Gemm"]


@pytest.mark.parametrize("bias", [(2, 1), (2, 5)])
def test_a_bias_that_differs_by_row_is_added_by_a_node_of_its_own(bias: tuple[int, int]) -> None:
    form = kept([node("Gemm", ["x", "w", "c"], ["y"], beta=2.0)], {"w": normal(3, 5), "c": normal(*bias)}, {"x": [2, 3]})
    assert operators(form) == ["Gemm", "Add"]


def test_a_gemm_of_computed_weights_is_left() -> None:
    form = kept([node("Gemm", ["x", "w"], ["y"], alpha=2.0)], {}, {"x": [2, 3], "w": [3, 5]})
    assert operators(form) == ["Gemm"]


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3, 2]])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("batch", [1, "batch"])
def test_a_mean_over_space_becomes_a_global_pool(axes: list[int], keepdims: int, batch: int | str) -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("ReduceMean", ["r", "a"], ["y"], keepdims=keepdims)]
    form = kept(nodes, {"a": np.asarray(axes)}, {"x": [batch, 4, 5, 7]})
    assert operators(form) == ["Relu", "GlobalAveragePool"] + ([] if keepdims else ["Reshape"])


@pytest.mark.parametrize(
    ("axes", "shape", "element"), [([1], [1, 4, 5, 7], 1), ([1, 2, 3], [1, 4, 5, 7], 1), ([2], [2, 3, 4], 1), ([2, 3], [1, 4, 5, 7], 6)]
)
def test_other_means_stay(axes: list[int], shape: list[int], element: int) -> None:
    proto = model([node("ReduceMean", ["x", "a"], ["y"])], {"x": shape}, Y, {"a": np.asarray(axes)}, types={"x": element, "y": element})
    feed = {"x": np.arange(np.prod(shape)).reshape(shape).astype(np.float32 if element == 1 else np.int32)}
    form, _ = canonical(proto, feed)
    assert operators(form) == ["ReduceMean"]
    np.testing.assert_array_equal(onnxruntime_run(form, feed)["y"], onnxruntime_run(proto, feed)["y"])


PADDED = [(kind, mode) for kind in ("Conv", "AveragePool", "counting AveragePool") for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")]


@pytest.mark.parametrize(("window", "strides"), [([3, 2], [1, 1]), ([2, 5], [2, 3]), ([4, 1], [3, 1])])
@pytest.mark.parametrize(("kind", "mode"), [*PADDED, ("MaxPool", "SAME_UPPER"), ("MaxPool", "VALID")])
def test_automatic_padding_is_written_out(kind: str, window: list[int], strides: list[int], mode: str) -> None:
    options: dict[str, Any] = {"auto_pad": mode, "strides": strides}
    pool = {"kernel_shape": window} | ({"count_include_pad": 1} if kind.startswith("counting") else {})
    last = node("Conv", ["r", "w"], ["y"], **options) if kind == "Conv" else node(kind.split()[-1], ["r"], ["y"], **options, **pool)
    form = kept([node("Relu", ["x"], ["r"]), last], {"w": normal(6, 4, *window)})
    assert "auto_pad" not in attributes(form, 1)


def test_a_max_pool_whose_shape_onnx_evaluates_wrongly_is_kept_right() -> None:
    """onnx 1.23's own evaluator gives SAME_LOWER max pools another shape than its shape inference and onnxruntime do."""
    kept([node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 3], auto_pad="SAME_LOWER")], {})


def test_automatic_padding_of_an_open_size_is_refused() -> None:
    proto = model([node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], auto_pad="SAME_UPPER")], {"x": [1, 4, "h", "w"]}, Y)
    with pytest.raises(HubError, match="MaxPool 'MaxPool_y' has auto_pad SAME_UPPER on a size that is not known"):
        canonical(proto, {"x": normal(1, 4, 8, 8)})


@pytest.mark.parametrize(
    ("shape", "target", "wanted"),
    [([2, 3, 4], [0, -1], [2, 12]), (["n", 3, 4], [0, 12], [-1, 12]), (["n", 3, 4], [-1, 12], [-1, 12]), ([2, 3, 4], [-1], [24])],
)
def test_a_reshape_says_its_sizes_with_at_most_one_open(shape: list[Any], target: list[int], wanted: list[int]) -> None:
    form = kept([node("Relu", ["x"], ["r"]), node("Reshape", ["r", "t"], ["y"])], {"t": np.asarray(target)}, {"x": shape})
    assert weights(form, 1)[0].tolist() == wanted


def test_a_target_computed_from_the_shape_becomes_constant() -> None:
    nodes = [
        node("Shape", ["x"], ["sizes"]),
        node("Gather", ["sizes", "first"], ["n"]),
        node("Concat", ["n", "rest"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["y"]),
    ]
    form = kept(nodes, {"first": np.asarray([0]), "rest": np.asarray([-1])}, {"x": [2, 3, 4]})
    assert operators(form) == ["Reshape"] and weights(form)[0].tolist() == [2, 12]


def test_constants_of_any_size_and_spelling_become_initializers() -> None:
    small, large = normal(3), normal(20, 3)
    nodes = [
        node("Constant", [], ["a"], value=numpy_helper.from_array(small)),
        node("Constant", [], ["b"], value_float=2.5),
        node("Constant", [], ["c"], value_floats=[1.0, 2.0, 3.0]),
        node("Constant", [], ["d"], value=numpy_helper.from_array(large)),
        *(node("Mul", [source, factor], [f"m{factor}"]) for source, factor in zip(("x", "ma", "mb", "mc"), "abcd", strict=True)),
        node("Relu", ["md"], ["y"]),
    ]
    form = kept(nodes, {}, {"x": [20, 3]})
    assert "Constant" not in operators(form)


def test_functions_of_the_model_are_inlined() -> None:
    body = [node("Constant", [], ["two"], value=numpy_helper.from_array(np.float32(2))), node("Mul", ["p", "two"], ["q"])]
    twice = helper.make_function("local", "Twice", ["p"], ["q"], body, [helper.make_opsetid("", 21)])
    form = kept([node("Twice", ["x"], ["y"], domain="local")], {}, functions=[twice], domains=["local"])
    assert operators(form) == ["Mul"] and not form.functions


def test_equal_computations_are_shared_and_dead_ones_dropped() -> None:
    nodes = [node("Relu", ["x"], ["a"]), node("Relu", ["x"], ["b"]), node("Neg", ["x"], ["dead"]), node("Add", ["a", "b"], ["y"])]
    assert operators(kept(nodes, {"unused": normal(3)})) == ["Relu", "Add"]


@pytest.mark.parametrize("second", [node("Relu", ["x"], ["z"]), node("Identity", ["y"], ["z"])], ids=["computed twice", "copied"])
def test_two_outputs_that_are_one_value_keep_both_names(second: onnx.NodeProto) -> None:
    kept([node("Relu", ["x"], ["y"]), second], {}, outputs={"y": None, "z": None})
    kept([node("Relu", ["x"], ["y"]), second], {}, outputs={"z": None, "y": None})


def test_an_input_that_is_handed_on_stays_an_output() -> None:
    kept([node("Identity", ["x"], ["z"]), node("Relu", ["x"], ["y"])], {}, outputs={"z": None, "y": None})


@pytest.mark.parametrize(
    "producer", [[node("Constant", [], ["z"], value_float=1.0)], [node("Shape", ["x"], ["z"])]], ids=["constant", "shape"]
)
def test_an_output_that_is_constant_is_copied_from_a_weight(producer: list[onnx.NodeProto]) -> None:
    shape, element = ([], 1) if producer[0].op_type == "Constant" else ([4], 7)
    proto = model([*producer, node("Relu", ["x"], ["y"])], X, {"y": None, "z": shape}, types={"z": element})
    form, _ = canonical(proto, {"x": normal(1, 4, 8, 8)})
    (copy,) = (held for held in form.graph.node if held.output[0] == "z")
    assert copy.op_type == "Identity" and copy.input[0] in {held.name for held in form.graph.initializer}
    given = onnxruntime_run(form, {"x": normal(1, 4, 8, 8)})["z"]
    assert np.array_equal(given, 1.0 if element == 1 else [1, 4, 8, 8])


def test_attributes_that_repeat_their_default_are_removed_and_others_kept() -> None:
    form = kept([node("LeakyRelu", ["x"], ["a"], alpha=0.01), node("LeakyRelu", ["a"], ["y"], alpha=0.2)], {})
    assert attributes(form, 0) == {} and attributes(form, 1) == {"alpha": pytest.approx(0.2)}


def test_every_node_has_a_name_of_its_own_and_every_value_a_type_and_shape() -> None:
    form = kept([node("Relu", ["x"], ["a"]), node("Neg", ["a"], ["b"], name="Relu_a"), node("Abs", ["b"], ["y"])], {})
    names = [held.name for held in form.graph.node]
    assert all(names) and len(set(names)) == 3
    assert {value.name for value in form.graph.value_info} == {"a", "b"}


def test_an_unused_weight_is_dropped() -> None:
    proto = model([node("Relu", ["x"], ["y"])], X, {"y": [1, 4, 8, 8]}, {"old": normal(3)})
    held = ir.from_proto(proto)
    drop_unused(held)
    assert not held.graph.initializers


# ---- contracts


def broken(model: ir.Model) -> str | None:
    return "it is broken"


def test_a_rewrite_whose_condition_does_not_hold_fails_under_its_name() -> None:
    held = ir.from_proto(model([node("Relu", ["x"], ["y"])], X, Y))
    with pytest.raises(HubError, match="rewrite first needs what it must: it is broken -> next: report this model"):
        Rewrite("first", lambda model: True, requires=broken)(held)
    with pytest.raises(HubError, match="rewrite second did not leave what it must: it is broken"):
        Rewrite("second", lambda model: True, ensures=broken)(held)


VIOLATIONS = {
    "embed constants": ([node("Constant", [], ["k"], value_float=1.0), node("Add", ["x", "k"], ["y"])], {}, X),
    "fold patterns": ([node("Conv", ["x", "w"], ["c"]), BN], {"w": normal(4, 4, 3, 3), **batch_norm(4)}, X),
    "normalize Gemm": ([node("Gemm", ["x", "w"], ["y"])], {"w": normal(3, 4)}, {"x": [2, 3]}),
    "global pools": ([node("ReduceMean", ["x", "a"], ["y"])], {"a": np.asarray([2, 3])}, X),
    "explicit pads": ([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], auto_pad="SAME_UPPER")], {}, X),
    "name nodes": ([node("Relu", ["x"], ["y"])], {}, X),
}


@pytest.mark.parametrize("name", [*VIOLATIONS, "inline functions", "infer shapes"])
def test_a_rewrite_that_does_nothing_does_not_get_past_its_own_condition(name: str) -> None:
    """The condition must be strong enough to notice a rewrite that left its work undone."""
    rewrite = [held for held in sequence() if held.name == name][-1]
    if name == "inline functions":
        body = helper.make_function("local", "F", ["p"], ["q"], [node("Neg", ["p"], ["q"])], [helper.make_opsetid("", 21)])
        held = ir.from_proto(model([node("F", ["x"], ["y"], domain="local")], X, Y, functions=[body], domains=["local"]))
    elif name == "infer shapes":
        held = ir.from_proto(model([node("Relu", ["x"], ["a"]), node("Neg", ["a"], ["y"])], X, Y))
    else:
        nodes, initializers, inputs = VIOLATIONS[name]
        proto = onnx.shape_inference.infer_shapes(model(nodes, inputs, Y, initializers))
        held = ir.from_proto(proto)
    with pytest.raises(HubError, match=f"rewrite {name} did not leave"):
        Rewrite(name, lambda model: False, ensures=rewrite.ensures)(held)
    rewrite(held)


def test_what_runs_after_pinning_is_part_of_the_sequence() -> None:
    assert {rewrite.name for rewrite in after_pinning()} <= {rewrite.name for rewrite in sequence()}
