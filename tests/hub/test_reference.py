"""The float64 run against torch.double and numpy."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgepack.hub.graph import HubError
from edgepack.hub.reference import Float64Run
from tests.hub.graphs import batch_norm, model, normal

node = helper.make_node
F = torch.nn.functional
X = {"x": [2, 4, 7, 7]}
# ONNX holds attributes such as epsilon in fp32: 1e-5 is off by 2.5e-8 of itself. Everything else is float64.
FLOAT64 = 1e-9


def result(nodes: list[onnx.NodeProto], held: dict[str, np.ndarray], inputs: Any = None, **options: Any) -> tuple[np.ndarray, torch.Tensor]:
    inputs = inputs or X
    feed = {name: normal(*shape, seed=7) for name, shape in inputs.items()}
    proto = model(nodes, inputs, {"y": None}, held, **options)
    return Float64Run(proto)(feed)["y"], torch.from_numpy(feed["x"]).double()


def double(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).double()


W, K, T = normal(4, 2, 3, 3), normal(6, seed=2), normal(4, 3, 3, 3)
N = batch_norm(4)
CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], Any]] = {
    "convolution": (
        [node("Conv", ["x", "w", "k"], ["y"], group=2, pads=[1, 0, 1, 2], strides=[2, 1], dilations=[1, 2])],
        {"w": normal(6, 2, 3, 3), "k": K},
        lambda x: F.conv2d(F.pad(x, (0, 2, 1, 1)), double(normal(6, 2, 3, 3)), double(K), (2, 1), 0, (1, 2), 2),
    ),
    "local response normalization": (
        [node("LRN", ["x"], ["y"], size=3, alpha=0.5, beta=0.75, bias=2.0)],
        {},
        lambda x: F.local_response_norm(x, 3, 0.5, 0.75, 2.0),
    ),
    "transposed convolution by groups": (
        [node("ConvTranspose", ["x", "w", "k"], ["y"], group=2, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])],
        {"w": T, "k": K},
        lambda x: F.conv_transpose2d(x, double(T), double(K), 2, 1, 1, 2),
    ),
    "batch normalization": (
        [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])],
        N,
        lambda x: F.batch_norm(x, double(N["m"]), double(N["v"]), double(N["s"]), double(N["b"])),
    ),
    "layer normalization": (
        [node("LayerNormalization", ["x", "g"], ["y"])], {"g": normal(7)}, lambda x: F.layer_norm(x, (7,), double(normal(7))),
    ),
    "group normalization": (
        [node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)],
        {"s": N["s"], "b": N["b"]},
        lambda x: F.group_norm(x, 2, double(N["s"]), double(N["b"])),
    ),
    "softmax and sigmoid": ([node("Softmax", ["x"], ["p"]), node("Sigmoid", ["p"], ["y"])], {}, lambda x: x.softmax(-1).sigmoid()),
    "average pool": (
        [node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])],
        {},
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    ),
    "max pool": ([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])], {}, lambda x: F.max_pool2d(x, 2)),
    "bilinear resize": (
        [node("Resize", ["x", "", "s"], ["y"], mode="linear")],
        {"s": np.asarray([1, 1, 2, 2], np.float32)},
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    ),
    "constant of value_float": (
        [node("Constant", [], ["k"], value_float=3.0), node("Div", ["x", "k"], ["y"])], {}, lambda x: x / 3,
    ),
    "constant of value_floats": (
        [node("Constant", [], ["k"], value_floats=[3.0]), node("Div", ["x", "k"], ["y"])], {}, lambda x: x / 3,
    ),
    "constant of shape without value": (
        [node("Shape", ["x"], ["n"]), node("ConstantOfShape", ["n"], ["k"]), node("Sub", ["k", "x"], ["y"])], {}, lambda x: -x,
    ),
    "cast to half and back": (
        [node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)], {}, lambda x: x,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_operator_agrees_with_torch_in_double(case: str) -> None:
    nodes, held, truth = CASES[case]
    found, x = result(nodes, held)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, truth(x).numpy(), rtol=FLOAT64, atol=FLOAT64)


@pytest.mark.parametrize("opset", [9, 13, 14, 17])
def test_batch_normalization_of_any_opset_uses_the_statistics_it_is_given(opset: int) -> None:
    found, x = result([node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])], N, opset=opset)
    wanted = F.batch_norm(x, double(N["m"]), double(N["v"]), double(N["s"]), double(N["b"])).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_functions_and_subgraphs_are_promoted_with_their_weights() -> None:
    third = numpy_helper.from_array(np.float32(3))
    body = helper.make_function(
        "local",
        "Third",
        ["p"],
        ["q"],
        [node("Constant", [], ["k"], value=third), node("Div", ["p", "k"], ["q"])],
        [helper.make_opsetid("", 21)],
    )
    found, x = result([node("Third", ["x"], ["y"], domain="local")], {}, functions=[body], domains=["local"])
    np.testing.assert_allclose(found, x.numpy() / 3, rtol=1e-15)
    out = [helper.make_tensor_value_info("o", 1, [2, 4, 7, 7])]
    branch = helper.make_graph([node("Div", ["x", "inner"], ["o"])], "b", [], out, [numpy_helper.from_array(np.float32(3), "inner")])
    found, x = result([node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)], {"yes": np.asarray(True)})
    np.testing.assert_allclose(found, x.numpy() / 3, rtol=1e-15)


def test_integer_inputs_are_left_as_they_are() -> None:
    proto = model([node("Gather", ["t", "i"], ["y"])], {"i": [2]}, {"y": None}, {"t": normal(5, 3)}, types={"i": TensorProto.INT64})
    np.testing.assert_array_equal(Float64Run(proto)({"i": np.asarray([4, 0])})["y"], normal(5, 3)[[4, 0]].astype(np.float64))


def test_a_half_precision_model_is_evaluated_in_float64() -> None:
    half = np.asarray([1 / 3], np.float16)
    proto = model(
        [node("Mul", ["x", "w"], ["y"])], {"x": [1]}, {"y": None}, {"w": half}, types={"x": TensorProto.FLOAT16, "y": TensorProto.FLOAT16}
    )
    assert Float64Run(proto)({"x": half})["y"][0] == np.float64(half[0]) ** 2


def test_an_old_spelling_the_evaluator_lacks_is_evaluated_after_conversion() -> None:
    proto = model([node("BatchNormalization", ["x", *N], ["y"])], X, {"y": [2, 4, 7, 7]}, N, opset=7)
    truth = F.batch_norm(double(normal(2, 4, 7, 7)), double(N["m"]), double(N["v"]), double(N["s"]), double(N["b"]))
    run = Float64Run(proto)
    for _ in range(2):
        np.testing.assert_allclose(run({"x": normal(2, 4, 7, 7)})["y"], truth, rtol=FLOAT64, atol=FLOAT64)


def test_the_model_handed_in_is_not_changed() -> None:
    proto = model([node("Mul", ["x", "w"], ["y"])], {"x": [1]}, {"y": None}, {"w": normal(1)})
    before = proto.SerializeToString()
    Float64Run(proto)({"x": normal(1)})
    assert proto.SerializeToString() == before


def test_what_cannot_be_evaluated_is_refused_with_the_reason() -> None:
    proto = model([node("Twist", ["x"], ["y"], domain="my.domain")], {"x": [1]}, {"y": None}, domains=["my.domain"])
    with pytest.raises(HubError, match=r"cannot be evaluated in float64 \(.*Twist"):
        Float64Run(proto)({"x": normal(1)})


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("aligned", [0, 1])
def test_sampling_whole_arrays_is_onnxs_point_by_point(mode: str, padding: str, aligned: int) -> None:
    grid = np.random.default_rng(4).uniform(-2, 2, (2, 3, 2, 2)).astype(np.float32)
    nodes = [helper.make_node("GridSample", ["x", "g"], ["y"], mode=mode, padding_mode=padding, align_corners=aligned)]
    proto, feed = model(nodes, {"x": [2, 2, 4, 5]}, {"y": None}, {"g": grid}), {"x": normal(2, 2, 4, 5)}
    wanted = ReferenceEvaluator(proto).run(None, feed)[0]
    # onnx rounds coordinates of a few pixels to float32.
    np.testing.assert_allclose(Float64Run(proto)(feed)["y"], wanted, rtol=1e-5, atol=1e-5)


def test_elements_are_gathered_by_indices_shorter_than_the_data() -> None:
    indices = np.asarray([[2, -1], [0, 1]])
    proto = model([helper.make_node("GatherElements", ["x", "i"], ["y"], axis=1)], {"x": [3, 4]}, {"y": None}, {"i": indices})
    x = normal(3, 4)
    np.testing.assert_array_equal(Float64Run(proto)({"x": x})["y"], np.asarray([[x[0, 2], x[0, 3]], [x[1, 0], x[1, 1]]], np.float64))
