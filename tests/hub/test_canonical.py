"""The canonical form as a whole: opsets, refusals, and the check that catches a wrong rewrite."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepack.hub import canonical as room
from edgepack.hub.canonical import canonicalize, plain_session, run_plain
from edgepack.hub.graph import HubError
from edgepack.hub.passes import Rewrite
from tests.hub.graphs import batch_norm, canonical, model, normal, onnxruntime_run, operators

node = helper.make_node
X = {"x": [1, 3, 8, 8]}


def network(opset: int) -> onnx.ModelProto:
    """Conv - BatchNormalization - Relu - Clip - Dropout - mean over space, as each opset spells them."""
    held = {"w": normal(4, 3, 3, 3), **batch_norm(4), "axes": np.asarray([2, 3])}
    held |= {"low": np.asarray(0.1, np.float32), "high": np.asarray(1.5, np.float32)}
    clip = node("Clip", ["r"], ["k"], min=0.1, max=1.5) if opset < 11 else node("Clip", ["r", "low", "high"], ["k"])
    mean = node("ReduceMean", ["d"], ["y"], axes=[2, 3], keepdims=0) if opset < 18 else node("ReduceMean", ["d", "axes"], ["y"], keepdims=0)
    nodes = [
        node("Conv", ["x", "w"], ["c"]), node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]), node("Relu", ["n"], ["r"]),
        clip, node("Dropout", ["k"], ["d"]), mean,
    ]  # fmt: skip
    read = {name for held_node in nodes for name in held_node.input}
    return model(nodes, X, {"y": [1, 4]}, {name: array for name, array in held.items() if name in read}, opset=opset)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 18, 20, 21, 22, 23, 25, 28])
def test_every_opset_from_7_to_28_comes_to_one_form(opset: int) -> None:
    proto, feed = network(opset), {"x": normal(1, 3, 8, 8, seed=4)}
    form, _ = canonical(proto, feed)
    assert form.opset_import[0].version == 21
    # A Relu in front of a Clip from 0.1 is absorbed by it.
    assert operators(form) == ["Conv", "Clip", "GlobalAveragePool", "Reshape"]
    np.testing.assert_allclose(onnxruntime_run(form, feed)["y"], onnxruntime_run(proto, feed)["y"], atol=1e-5)


@pytest.mark.parametrize("opset", [6, 29])
def test_other_opsets_are_refused(opset: int) -> None:
    proto = model([node("Relu", ["x"], ["y"])], X, {"y": [1, 3, 8, 8]})
    proto.opset_import[0].version = opset
    with pytest.raises(HubError, match=f"opset {opset} -> next: export it with an opset from 7 to 28"):
        canonicalize(proto, {"x": normal(1, 3, 8, 8)})


def test_a_node_without_an_older_spelling_is_refused() -> None:
    proto = model([node("BitCast", ["x"], ["y"], to=6)], X, {"y": [1, 3, 8, 8]}, opset=26, types={"y": TensorProto.INT32})
    with pytest.raises(HubError, match=r"BitCast '' came after opset 21, and ONNX says it with no other operators"):
        canonicalize(proto, {"x": normal(1, 3, 8, 8)})


def test_a_conversion_that_changes_the_model_is_refused() -> None:
    """onnx converts Upsample-9 (asymmetric) to a Resize with half_pixel coordinates, which is another function."""
    scales = {"scales": np.asarray([1, 1, 2, 2], np.float32)}
    proto = model([node("Upsample", ["x", "scales"], ["y"], mode="linear")], X, {"y": [1, 3, 16, 16]}, scales, opset=9)
    with pytest.raises(HubError, match="the conversion to opset 21 changed the model"):
        canonicalize(proto, {"x": normal(1, 3, 8, 8)})


@pytest.mark.parametrize("domain", ["com.microsoft", "my.company"])
def test_an_operator_of_another_domain_is_named(domain: str) -> None:
    proto = model([node("Gelu", ["x"], ["y"], domain=domain, name="act")], X, {"y": [1, 3, 8, 8]}, domains=[domain])
    with pytest.raises(HubError, match=f"Gelu 'act' is of domain '{domain}'"):
        canonicalize(proto, {"x": normal(1, 3, 8, 8)})


def nan(*shape: int) -> np.ndarray:
    array = normal(*shape)
    array.flat[1] = np.nan
    return array


def test_a_nan_weight_is_named_wherever_it_is_held() -> None:
    y = {"y": [1, 3, 8, 8]}
    constant = node("Constant", [], ["w"], value=numpy_helper.from_array(nan(8)))
    add = node("Add", ["x", "w"], ["y"])
    for proto in (model([add], X, y, {"w": nan(8)}), model([constant, add], X, y)):
        with pytest.raises(HubError, match="'w' holds NaN"):
            canonicalize(proto, {"x": normal(1, 3, 8, 8)})


def test_infinities_of_the_model_itself_are_not_blamed_on_a_rewrite() -> None:
    nodes = [node("Identity", ["x"], ["i"]), node("Log", ["i"], ["y"]), node("Sqrt", ["x"], ["z"])]
    proto = model(nodes, {"x": [4]}, {"y": [4], "z": [4]})
    form, _ = canonical(proto, {"x": np.asarray([-1, 0, 1, 2], np.float32)})
    assert sorted(operators(form)) == ["Log", "Sqrt"]


# ---- the check


def wrong(change: Callable[[ir.Model], None]) -> list[Rewrite]:
    def apply(held: ir.Model) -> bool:
        change(held)
        return True

    return [Rewrite("slip", apply)]


def scale_weight(held: ir.Model) -> None:
    value = held.graph.initializers["w"]
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.001), name="w")


def flatten_output(held: ir.Model) -> None:
    output = held.graph.outputs[0]
    held.graph.initializers["shape"] = ir.Value(
        name="shape", const_value=ir.tensor(np.asarray([-1]), name="shape"), type=ir.TensorType(ir.DataType.INT64)
    )
    reshape = ir.node("Reshape", [output, held.graph.initializers["shape"]])
    reshape.outputs[0].type = output.type
    held.graph.append(reshape)
    held.graph.outputs[0] = reshape.outputs[0]
    output.name = "inner"


def swap_outputs(held: ir.Model) -> None:
    held.graph.outputs[0], held.graph.outputs[1] = held.graph.outputs[1], held.graph.outputs[0]


def make_second_nan(held: ir.Model) -> None:
    value = held.graph.initializers["k"]
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(np.nan), name="k")


def two_outputs() -> onnx.ModelProto:
    nodes = [node("Mul", ["x", "w"], ["y"]), node("Mul", ["x", "k"], ["z"])]
    shape = [1, 3, 8, 8]
    return model(nodes, X, {"y": shape, "z": shape}, {"w": normal(8), "k": normal(8, seed=3)})


@pytest.mark.parametrize("change", [scale_weight, flatten_output, swap_outputs, make_second_nan])
@pytest.mark.parametrize("example", ["random", "zeros"])
def test_a_wrong_rewrite_is_caught_by_name_even_on_an_example_of_zeros(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[ir.Model], None], example: str
) -> None:
    monkeypatch.setattr(room.passes, "sequence", lambda: wrong(change))
    feed = {"x": normal(1, 3, 8, 8) if example == "random" else np.zeros((1, 3, 8, 8), np.float32)}
    with pytest.raises(HubError, match="rewrite slip changed the model"):
        canonicalize(two_outputs(), feed)


def test_a_wrong_rewrite_that_denies_changing_anything_is_caught_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(held: ir.Model) -> bool:
        scale_weight(held)
        return False

    monkeypatch.setattr(room.passes, "sequence", lambda: [Rewrite("liar", apply)])
    with pytest.raises(HubError, match="rewrite sequence as a whole changed the model"):
        canonicalize(two_outputs(), {"x": normal(1, 3, 8, 8)})


def test_a_rewrite_that_crashes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(held: ir.Model) -> bool:
        raise IndexError("off by one")

    monkeypatch.setattr(room.passes, "sequence", lambda: [Rewrite("slip", apply)])
    with pytest.raises(HubError, match="rewrite slip failed"):
        canonicalize(two_outputs(), {"x": normal(1, 3, 8, 8)})


def test_an_example_that_does_not_fit_is_a_refusal_of_the_hub() -> None:
    with pytest.raises(HubError):
        canonicalize(two_outputs(), {"x": normal(1, 3, 8, 9)})


def test_chosen_values_and_none_are_run() -> None:
    proto, feed = two_outputs(), {"x": normal(1, 3, 8, 8)}
    assert list(run_plain(proto, feed, ["z"])) == ["z"]
    assert plain_session(proto)(feed, []) == {}
    assert list(run_plain(proto, feed)) == ["y", "z"]


def test_a_model_onnxruntime_cannot_load_is_refused() -> None:
    proto = model([node("Relu", ["nowhere"], ["y"])], X, {"y": [1, 3, 8, 8]})
    with pytest.raises(HubError, match="onnxruntime cannot load the model"):
        run_plain(proto, {"x": normal(1, 3, 8, 8)})
