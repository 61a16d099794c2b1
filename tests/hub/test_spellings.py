"""Operators said with others: what remains, and that onnxruntime answers as it does for the operator itself.

The canonical form compares every rewrite with float64 as well, and refuses one that loses more than 6 dB (tests/hub/test_canonical.py).
"""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edgepack.hub.graph import HubError
from edgepack.hub.pin import pinned
from edgepack.hub.reference import Float64Run
from tests.hub.graphs import FP32, batch_norm, canonical, kept, model, normal, onnxruntime_run, operators

node = helper.make_node
IMAGE = {"x": [2, 4, 7, 9]}
VOLUME = {"x": [2, 3, 5, 6, 7]}
Y = {"y": None}


# ---- reductions

PLAIN = {"ReduceSum", "ReduceMax", "Abs", "Mul", "Sqrt", "Log", "Exp", "Sub", "Add", "Clip", "Squeeze", "Identity"}
AXES: dict[str, Any] = {"none": None, "empty": [], "last": [-1], "several": [3, 1], "all": [0, 1, 2, 3]}


@pytest.mark.parametrize("operator", ["ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"])
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("noop", [0, 1])
def test_a_composite_reduction_becomes_plain_ones(operator: str, axes: str, keepdims: int, noop: int) -> None:
    reduction = node(operator, ["p"] if AXES[axes] is None else ["p", "a"], ["y"], keepdims=keepdims, noop_with_empty_axes=noop)
    held = {} if AXES[axes] is None else {"a": np.asarray(AXES[axes], np.int64)}
    proto, feed = model([node("Abs", ["x"], ["p"]), reduction], IMAGE, Y, held), {"x": normal(*IMAGE["x"])}
    (wanted,) = ReferenceEvaluator(proto).run(None, feed)
    form, _ = canonical(proto, feed)
    assert set(operators(form)) <= PLAIN
    np.testing.assert_allclose(onnxruntime_run(form, feed)["y"], wanted, rtol=FP32, atol=FP32)


@pytest.mark.parametrize("values", [[1e4, 1e4 + 1, -3], [-np.inf, -np.inf, -np.inf], [np.inf, 0, 1], [-np.inf, 0, 1], [-1e4, -1e4, -1e4]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_the_log_of_a_sum_of_exponentials_stands_large_numbers_and_infinities(values: list[float], keepdims: int) -> None:
    proto = model([node("ReduceLogSumExp", ["x", "a"], ["y"], keepdims=keepdims)], {"x": [1, 3]}, Y, {"a": np.asarray([1])})
    form, _ = canonical(proto, {"x": normal(1, 3)})
    given = onnxruntime_run(form, {"x": np.asarray([values], np.float32)})["y"].ravel()
    with np.errstate(divide="ignore"):
        wanted = np.logaddexp.reduce(np.asarray(values, np.float64))
    np.testing.assert_allclose(given, [wanted], rtol=1e-6)


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMin"])
def test_the_extreme_of_booleans_is_that_of_numbers(operator: str) -> None:
    nodes = [node("Greater", ["x", "zero"], ["b"]), node(operator, ["b", "a"], ["y"], keepdims=0)]
    form = kept(nodes, {"zero": np.zeros((), np.float32), "a": np.asarray([1])}, IMAGE, types={"y": TensorProto.BOOL})
    assert operators(form) == ["Greater", "Cast", operator, "Cast"]


def test_a_reduction_over_axes_of_run_time_keeps_its_name_for_a_refusal() -> None:
    proto = model([node("ReduceL1", ["x", "a"], ["y"])], IMAGE | {"a": [1]}, {"y": ["n", "c", "h", "w"]}, types={"a": TensorProto.INT64})
    form, _ = canonical(proto, {"x": normal(*IMAGE["x"]), "a": np.asarray([3])})
    assert operators(form) == ["ReduceL1"]


def test_a_value_of_unknown_rank_is_refused_by_the_name_of_its_node() -> None:
    nodes = [node("ReduceSum", ["x", "a"], ["s"], keepdims=0), node("Relu", ["s"], ["y"])]
    proto = model(nodes, IMAGE | {"a": [1]}, Y, types={"a": TensorProto.INT64})
    with pytest.raises(HubError, match="ReduceSum 'ReduceSum_s': how many dimensions 's' has is only known at run time"):
        canonical(proto, {"x": normal(*IMAGE["x"]), "a": np.asarray([3])})


# ---- operators that do nothing


@pytest.mark.parametrize(
    ("operator", "number", "wanted"), [("Add", 0, []), ("Add", 1e-9, ["Add"]), ("Mul", 1, []), ("Mul", 1.000004, ["Mul"])]
)
def test_only_what_changes_nothing_is_left_out(operator: str, number: float, wanted: list[str]) -> None:
    """onnxscript's own rules take numbers within 1e-8 of 0, or 1e-5 of 1, for 0 and 1: an epsilon would be lost."""
    nodes = [node("Abs", ["x"], ["a"]), node(operator, ["a", "c"], ["s"]), node("Sqrt", ["s"], ["y"])]
    assert operators(kept(nodes, {"c": np.float32(number)}, IMAGE)) == ["Abs", *wanted, "Sqrt"]


# ---- normalizations


def test_a_normalization_by_mean_and_variance_is_exact_far_from_zero_and_finite_without_variance() -> None:
    proto = model([node("MeanVarianceNormalization", ["x"], ["y"], axes=[0, 2, 3])], IMAGE, Y, opset=13)
    form, _ = canonical(proto, {"x": normal(*IMAGE["x"])})
    far = normal(*IMAGE["x"]) + np.float32(1000)
    far[:, 1] = 3
    given, wide = onnxruntime_run(form, {"x": far})["y"], far.astype(np.float64)
    centred = wide - wide.mean((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(given, centred / (np.sqrt(np.square(centred).mean((0, 2, 3), keepdims=True)) + 1e-9), atol=1e-4)


@pytest.mark.parametrize("axis", [1, -1, -2])
def test_statistics_of_a_layer_normalization_are_spelled_out(axis: int) -> None:
    layer = node("LayerNormalization", ["x", "s", "b"], ["y", "m", "i"], axis=axis)
    shape = IMAGE["x"][axis:]
    form = kept([layer], {"s": normal(*shape, seed=1), "b": normal(*shape, seed=2)}, IMAGE, {"y": None, "m": None, "i": None})
    assert "LayerNormalization" not in operators(form)


def test_a_layer_normalization_of_one_output_and_constant_parameters_stays_whole() -> None:
    held = {"s": normal(9, seed=1), "b": normal(9, seed=2)}
    assert operators(kept([node("LayerNormalization", ["x", "s", "b"], ["y"])], held, IMAGE)) == ["LayerNormalization"]
    unread = kept([node("LayerNormalization", ["x", "s", "b"], ["y", "m", "i"])], held, IMAGE)
    assert operators(unread) == ["LayerNormalization"] and list(unread.graph.node[0].output) == ["y"]


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_normalization_by_a_scale_of_run_time_is_spelled_out(bias: bool) -> None:
    layer = node("LayerNormalization", ["x", "s", *(["b"] if bias else [])], ["y"])
    form = kept([layer], {"b": normal(9)} if bias else {}, IMAGE | {"s": [9]})
    assert "LayerNormalization" not in operators(form)


@pytest.mark.parametrize("which", ["s", "b", "m"])
@pytest.mark.parametrize("shape", [[2, 4, 7, 9], [2, 4, 7], [2, 4]])
def test_batch_normalization_by_parameters_of_run_time_is_spelled_out(which: str, shape: list[int]) -> None:
    held = batch_norm(4)
    held.pop(which)
    form = kept([node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], epsilon=1e-3)], held, {"x": shape, which: [4]})
    assert "BatchNormalization" not in operators(form)
    # What depends on constants alone is computed once: the variance is folded with its epsilon and root.
    assert "Sqrt" not in operators(form)


def test_batch_normalization_in_training_form_uses_and_gives_the_statistics_of_the_batch() -> None:
    layer = node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y", "nm", "nv"], training_mode=1, momentum=0.8)
    form = kept([layer], batch_norm(4), IMAGE, {"y": None, "nm": None, "nv": None})
    assert "BatchNormalization" not in operators(form)


@pytest.mark.parametrize("shape", [[2, 4, 7, 9], [2, 4, 7]])
def test_instance_normalization_by_a_scale_of_run_time_is_spelled_out(shape: list[int]) -> None:
    form = kept([node("InstanceNormalization", ["x", "s", "b"], ["y"])], {"b": normal(4)}, {"x": shape, "s": [4]})
    assert "InstanceNormalization" not in operators(form)


# ---- operands


@pytest.mark.parametrize(("bounds", "left"), [(["low", "high"], ["Max", "Min"]), (["", "high"], ["Min"]), (["low"], ["Max"])])
def test_a_clip_to_bounds_of_run_time_is_a_maximum_and_a_minimum(bounds: list[str], left: list[str]) -> None:
    form = kept([node("Clip", ["x", *bounds], ["y"])], {}, {"x": [3, 4], **{name: [] for name in bounds if name}})
    assert operators(form) == left


@pytest.mark.parametrize(("operator", "left"), [("Sum", ["Add", "Add"]), ("Mean", ["Add", "Add", "Div"])])
def test_many_operands_become_a_chain(operator: str, left: list[str]) -> None:
    assert operators(kept([node(operator, ["x", "k", "x"], ["y"])], {"k": normal(9)}, IMAGE)) == left


@pytest.mark.parametrize("operator", ["Sum", "Max", "Min", "Mean"])
def test_one_operand_is_itself(operator: str) -> None:
    assert set(operators(kept([node("Relu", ["x"], ["r"]), node(operator, ["r"], ["y"])], {}, IMAGE))) <= {"Relu", "Identity", "Div"}


@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_the_last_index_is_the_first_one_backwards(operator: str, axis: int, keepdims: int) -> None:
    nodes = [node("Round", ["x"], ["r"]), node(operator, ["r"], ["y"], axis=axis, keepdims=keepdims, select_last_index=1)]
    form = kept(nodes, {}, {"x": [5, 40]}, types={"y": TensorProto.INT64})
    assert operators(form) == ["Round", "Gather", operator, "Sub"]


@pytest.mark.parametrize(("left", "right"), [([5], [5]), ([5], [5, 3]), ([5], [2, 5, 3]), ([3, 5], [5]), ([2, 3, 5], [5])])
def test_a_vector_in_a_matrix_product_is_a_row_or_a_column(left: list[int], right: list[int]) -> None:
    form = kept([node("MatMul", ["x", "k"], ["y"])], {}, {"x": left, "k": right})
    assert {"MatMul", "Squeeze"} <= set(operators(form))


# ---- pads and axes


def test_a_negative_pad_is_a_slice() -> None:
    pads, value = np.asarray([0, 0, -1, 2, 0, 0, 0, -3]), np.asarray(1.5, np.float32)
    form = kept([node("Pad", ["x", "p", "v"], ["y"])], {"p": pads, "v": value}, IMAGE)
    assert operators(form) == ["Slice", "Pad"]
    only = kept([node("Pad", ["x", "p", "", "a"], ["y"])], {"p": np.asarray([-2, -1]), "a": np.asarray([-1])}, IMAGE)
    assert operators(only) == ["Slice"]


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_a_negative_pad_of_another_mode_is_refused_by_its_node(mode: str) -> None:
    proto = model([node("Pad", ["x", "p"], ["y"], "pad", mode=mode)], {"x": [4, 5]}, Y, {"p": np.asarray([0, -1, 0, 2])})
    with pytest.raises(HubError, match=rf"Pad 'pad' crops \(a negative amount\) in mode {mode}"):
        canonical(proto, {"x": normal(4, 5)})


@pytest.mark.parametrize("amounts", [[0, 2, 0, 3], [1, 0, 6, 11]])
def test_a_pad_that_wraps_gathers(amounts: list[int]) -> None:
    form = kept([node("Pad", ["x", "p"], ["y"], mode="wrap")], {"p": np.asarray(amounts)}, {"x": [4, 5]})
    assert set(operators(form)) == {"Gather"}


def shuffled(first: list[int], perm: list[int], last: list[int]) -> Any:
    nodes = [node("Reshape", ["x", "f"], ["a"]), node("Transpose", ["a"], ["b"], perm=perm), node("Reshape", ["b", "l"], ["y"])]
    return nodes, {"f": np.asarray(first), "l": np.asarray(last)}


@pytest.mark.parametrize(
    ("shape", "first", "perm", "last"),
    [
        ([2, 3, 4, 6], [2, 3, 2, 2, 3, 2], [0, 1, 3, 5, 2, 4], [2, 12, 2, 3]),
        ([2, 3, 4, 6], [2, 3, 2, 2, 3, 2], [0, 3, 5, 1, 2, 4], [2, 12, 2, 3]),
        ([1, 8, 8, 5], [1, 2, 4, 2, 4, 5], [0, 1, 3, 2, 4, 5], [4, 16, 5]),
        ([4, 1, 6, 1], [2, 2, 1, 3, 2, 1], [3, 5, 1, 2, 0, 4], [24]),
    ],
    ids=["pixel unshuffle", "space to depth", "window partition", "axes of one"],
)
def test_a_transpose_of_six_axes_between_reshapes_is_one_of_five_or_fewer(
    shape: list[int], first: list[int], perm: list[int], last: list[int]
) -> None:
    nodes, held = shuffled(first, perm, last)
    form = kept(nodes, held, {"x": shape})
    transposes = [held_node for held_node in form.graph.node if held_node.op_type == "Transpose"]
    ranks = [len(value.type.tensor_type.shape.dim) for value in form.graph.value_info]
    assert len(transposes) == 1 and max(ranks) <= 5


def test_a_transpose_that_someone_else_reads_keeps_its_axes() -> None:
    nodes, held = shuffled([2, 3, 2, 2, 3, 2], [0, 1, 3, 5, 2, 4], [2, 12, 2, 3])
    form = kept([*nodes, node("Relu", ["b"], ["z"])], held, {"x": [2, 3, 4, 6]}, {"y": None, "z": None})
    assert [len(held_node.attribute[0].ints) for held_node in form.graph.node if held_node.op_type == "Transpose"] == [6]


# ---- pools


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_shape": [3, 2, 3]},
        {"kernel_shape": [3, 2, 3], "pads": [1, 0, 1, 0, 1, 1], "strides": [2, 1, 2]},
        {"kernel_shape": [2, 3, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2, 1]},
    ],
    ids=["plain", "padded", "same"],
)
def test_a_pool_over_volumes_is_two_over_images(operator: str, options: dict[str, Any]) -> None:
    form = kept([node(operator, ["x"], ["y"], **options)], {}, VOLUME)
    assert operators(form).count(operator if operator != "LpPool" else "Conv") == 2
    ranks = [len(value.type.tensor_type.shape.dim) for value in form.graph.value_info]
    assert max(ranks) <= 4


@pytest.mark.parametrize("counts", [0, 1])
def test_the_mean_over_a_volume_counts_padding_as_it_is_told(counts: int) -> None:
    options = {"kernel_shape": [3, 3, 3], "pads": [1] * 6, "count_include_pad": counts}
    assert operators(kept([node("AveragePool", ["x"], ["y"], **options)], {}, VOLUME)).count("AveragePool") == 2


CEILED = {
    "overhang": {"kernel_shape": [3, 3], "strides": [2, 2]},
    "no overhang": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 0, 0]},
    "padded": {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 0, 1]},
    "last window on the padding": {"kernel_shape": [1, 1], "strides": [2, 2]},
    "last window on the padding before": {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [1, 1, 1, 1]},
}


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("counts", [0, 1])
@pytest.mark.parametrize("which", CEILED)
@pytest.mark.parametrize("size", [[8, 11], [6, 6], [7, 10]])
def test_a_pool_that_rounds_its_size_up_has_padding_instead(operator: str, counts: int, which: str, size: list[int]) -> None:
    """The node after the pool would keep the size that onnx infers wrongly where the last window would start on padding."""
    counting = {"count_include_pad": counts} if operator == "AveragePool" else {}
    pool = node(operator, ["x"], ["p"], ceil_mode=1, **CEILED[which], **counting)
    form = kept([pool, node("Relu", ["p"], ["y"])], {}, {"x": [2, 3, *size]})
    assert all(attribute.name != "ceil_mode" for held in form.graph.node for attribute in held.attribute)


def test_padding_that_is_the_same_leaves_nothing_to_round_up() -> None:
    same = {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}
    form = kept([node("MaxPool", ["x"], ["y"], ceil_mode=1, **same)], {}, IMAGE)
    assert {held.name for held in form.graph.node[0].attribute} == {"kernel_shape", "strides", "pads"}


DILATED = [
    {"kernel_shape": [3, 2], "dilations": [2, 3]},
    {"kernel_shape": [3, 2], "dilations": [2, 1], "strides": [2, 1], "pads": [1, 0, 2, 1]},
]


@pytest.mark.parametrize("options", DILATED, ids=["plain", "padded"])
def test_a_dilated_max_pool_is_the_maximum_of_slices(options: dict[str, Any]) -> None:
    form = kept([node("MaxPool", ["x"], ["y"], **options)], {}, IMAGE)
    assert set(operators(form)) <= {"Slice", "Max", "Pad"}


@pytest.mark.parametrize("options", DILATED, ids=["plain", "padded"])
@pytest.mark.parametrize("counts", [0, 1])
def test_a_dilated_average_pool_is_a_depthwise_sum_over_its_counts(options: dict[str, Any], counts: int) -> None:
    form = kept([node("AveragePool", ["x"], ["y"], count_include_pad=counts, **options)], {}, IMAGE)
    assert operators(form) == ["Conv", "Mul"]


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_shape": [3, 2]},
        {"kernel_shape": [3, 2], "pads": [1, 0, 2, 1], "strides": [2, 1]},
        {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"kernel_shape": [2, 2], "dilations": [2, 2]},
    ],
    ids=["plain", "padded", "same", "dilated"],
)
def test_an_lp_pool_is_a_root_of_sums_of_powers(p: int, options: dict[str, Any]) -> None:
    form = kept([node("LpPool", ["x"], ["y"], p=p, **options)], {}, IMAGE)
    assert "LpPool" not in operators(form) and "Conv" in operators(form)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_a_global_lp_pool_is_a_root_of_a_sum_of_powers(p: int) -> None:
    form = kept([node("GlobalLpPool", ["x"], ["y"], p=p)], {}, IMAGE)
    assert "GlobalLpPool" not in operators(form) and "ReduceSum" in operators(form)


def test_a_pool_that_gives_indices_stays_whole() -> None:
    types = {"i": TensorProto.INT64}
    form = kept([node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2])], {}, IMAGE, {"y": None, "i": None}, types=types)
    assert operators(form) == ["MaxPool"]


# ---- transposed convolutions


@pytest.mark.parametrize(
    "options",
    [
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
        {"auto_pad": "VALID", "strides": [2, 2]},
        {"output_shape": [16, 19], "strides": [2, 2]},
        {"output_shape": [14, 18], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ],
    ids=["same upper", "same lower", "valid", "longer", "shorter"],
)
def test_a_transposed_convolution_has_explicit_pads(options: dict[str, Any]) -> None:
    form = kept([node("ConvTranspose", ["x", "w"], ["y"], **options)], {"w": normal(4, 3, 3, 3)}, IMAGE)
    held = {attribute.name for attribute in form.graph.node[0].attribute}
    assert operators(form) == ["ConvTranspose"] and not held & {"auto_pad", "output_shape"}


# ---- symbolic sizes


@pytest.mark.parametrize(
    "held_node",
    [
        node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2, 3], strides=[2, 2, 2], ceil_mode=1),
        node("AveragePool", ["x"], ["y"], kernel_shape=[3, 2, 2], dilations=[1, 2, 2], pads=[1, 1, 1, 1, 1, 1]),
        node("LpPool", ["x"], ["y"], kernel_shape=[3, 2, 2]),
        node("ReduceLogSumExp", ["x"], ["y"]),
        node("InstanceNormalization", ["x", "s", "b"], ["y"]),
    ],
    ids=lambda held: held.op_type,
)
def test_a_batch_of_any_size_is_spelled_out_and_pinned_alike(held_node: onnx.NodeProto) -> None:
    inputs = {"x": ["batch", 3, 5, 6, 7]} | ({"s": [3], "b": [3]} if len(held_node.input) == 3 else {})
    proto = model([held_node], inputs, Y)
    feed = {name: normal(*[2 if size == "batch" else size for size in shape]) for name, shape in inputs.items()}
    _, hub = canonical(proto, feed)
    wanted = onnxruntime_run(proto, feed)["y"]
    for form in (ir.to_proto(hub.model), ir.to_proto(pinned(hub.model, {name: array.shape for name, array in feed.items()}))):
        assert held_node.op_type not in operators(form) or held_node.op_type in ("MaxPool", "AveragePool")
        np.testing.assert_allclose(onnxruntime_run(form, feed)["y"], wanted, rtol=FP32, atol=FP32)


# ---- the float64 reference


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_the_float64_lp_pool_is_onnxruntimes(p: int, ceil_mode: int) -> None:
    options = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1], "ceil_mode": ceil_mode, "p": p}
    proto, feed = model([node("LpPool", ["x"], ["y"], **options)], IMAGE, Y), {"x": normal(*IMAGE["x"])}
    np.testing.assert_allclose(Float64Run(proto)(feed)["y"], onnxruntime_run(proto, feed)["y"], rtol=FP32, atol=FP32)


def test_the_float64_pad_crops_as_onnxruntime_does() -> None:
    held = {"p": np.asarray([-1, 2, 3, -2]), "v": np.asarray(0.5, np.float32), "a": np.asarray([-1, 1])}
    proto, feed = model([node("Pad", ["x", "p", "v", "a"], ["y"])], IMAGE, Y, held), {"x": normal(*IMAGE["x"])}
    np.testing.assert_allclose(Float64Run(proto)(feed)["y"], onnxruntime_run(proto, feed)["y"], rtol=0, atol=0)
