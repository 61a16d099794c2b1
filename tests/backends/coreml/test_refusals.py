"""What cannot be expressed is refused before anything is written, with the node's name and a next step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.coreml import obstacles, write
from edgepack.backends.table import BackendError
from edgepack.hub.graph import HubError
from edgepack.mil.program import Program, read_function

from .models import make_model, run_onnxruntime, save, single

IMAGE = (1, 2, 6, 6)
FP32 = WriteOptions(scheme="fp32")


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def integer_power() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Pow", ["cast", "cast"], ["raised"], name="power"),
        helper.make_node("Cast", ["raised"], ["y"], name="out", to=1),
    ]
    cast = helper.make_node("Cast", ["image"], ["cast"], name="in", to=TensorProto.INT32)
    model = make_model([cast, *nodes], {"image": (3,)}, ["y"], {})
    model.graph.node[0].name = "power"
    return model


def suppression() -> onnx.ModelProto:
    """With the output's size as it would be for one image."""
    limits = {"most": np.array([2], np.int64), "overlap": np.array([0.5], np.float32)}
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores", *limits], ["y"], name="nms")
    graph = helper.make_graph(
        [node],
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("boxes", [1, 4, 4]), ("scores", [1, 1, 4]))],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [2, 3])],
        [numpy_helper.from_array(array, name) for name, array in limits.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


REFUSED = {
    "unknown operator": (single("Det", (2, 3, 3)), "no lowering"),
    "unknown attribute": (single("Relu", IMAGE), "attribute 'slope' is not honoured"),
    "rank 6": (
        make_model(
            [
                helper.make_node("Reshape", ["image", "wide"], ["six"], name="spread"),
                helper.make_node("Reshape", ["six", "flat"], ["result_0"], name="gather"),
            ],
            {"image": (1, 8)},
            ["result_0"],
            {"wide": np.array([1, 2, 1, 2, 1, 2]), "flat": np.array([8])},
        ),
        "rank 6",
    ),
    "pool indices": (single("MaxPool", IMAGE, kernel_shape=[2, 2], outputs=2), "optional output"),
    "window behind the input": (
        single("MaxPool", (1, 1, 6, 6), kernel_shape=[1, 1], strides=[2, 2], ceil_mode=1),
        "starts behind the input",
    ),
    "one element of pytorch's pixels": (
        single("Resize", IMAGE, [None, None, np.array([1, 2, 1, 9])], mode="cubic", coordinate_transformation_mode="pytorch_half_pixel"),
        "single element",
    ),
    "computed exponent": (integer_power(), "exponent computed at run time"),
    "same with output padding": (
        single("ConvTranspose", IMAGE, [ones(2, 2, 2, 2)], strides=[2, 2], auto_pad="SAME_UPPER", output_padding=[1, 1]),
        "SAME with output_padding",
    ),
    "pad all away": (single("Pad", IMAGE, [np.array([0, 0, -6, 0, 0, 0, 1, 0])]), "takes all elements"),
    "suppression": (suppression(), "as many rows as boxes remain"),
    "training": (single("BatchNormalization", IMAGE, [ones(2)] * 4, training_mode=1, outputs=3), "training_mode"),
}
REFUSED["unknown attribute"][0].graph.node[0].attribute.append(helper.make_attribute("slope", 1.0))


@pytest.mark.parametrize("name", REFUSED)
def test_a_form_that_cannot_be_expressed_leaves_no_file(name: str, tmp_path: Path) -> None:
    model, cause = REFUSED[name]
    path = save(model, tmp_path)
    with pytest.raises(BackendError, match=cause) as refusal:
        write(path, tmp_path / "out", FP32)
    assert model.graph.node[0].name in refusal.value.cause
    assert refusal.value.hint
    assert not (tmp_path / "out").exists()


def test_all_obstacles_are_listed_at_once_without_coremltools(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Det", ["image"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="fine"),
        helper.make_node("Hardmax", ["b"], ["c"], name="second"),
        helper.make_node("Cast", ["c"], ["d"], name="last", to=1),
    ]
    path = save(make_model(nodes, {"image": (2, 3, 3)}, ["d"], {}), tmp_path)
    assert [found.node for found in obstacles(path)] == ["first", "second"]
    script = "import sys; from pathlib import Path; from edgepack.backends.coreml import obstacles; obstacles(Path(sys.argv[1]))"
    check = f"{script}; assert not {{'coremltools', 'torch', 'onnxruntime'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check, str(path)], check=True, timeout=60)


def test_a_symbolic_shape_is_refused(tmp_path: Path) -> None:
    model = single("Relu", IMAGE)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(HubError, match="static shape"):
        write(save(model, tmp_path), tmp_path / "out", FP32)


def test_a_bool_output_is_refused_as_a_feature(tmp_path: Path) -> None:
    (found,) = obstacles(save(single("Cast", IMAGE, to=9), tmp_path))
    assert (found.operator, found.node) == ("output", "result_0")


def test_an_unknown_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="iOS9"):
        write(save(single("Relu", IMAGE), tmp_path), tmp_path, WriteOptions(scheme="fp32", minimum_os="iOS9"))


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hub.onnx").write_bytes(b"not a model")
    with pytest.raises(BackendError, match=r"hub\.onnx"):
        obstacles(tmp_path / "hub.onnx")


def test_numbers_beyond_fp16_are_refused_and_masks_are_clamped(tmp_path: Path) -> None:
    big = save(single("Add", (1, 3), [np.array([1, 2, 7e4], np.float32)]), tmp_path)
    with pytest.raises(BackendError, match="beyond float16"):
        write(big, tmp_path / "out", WriteOptions(scheme="fp16"))
    assert not (tmp_path / "out").exists()
    for lowest in (-np.inf, np.finfo(np.float32).min):
        model = single("Add", (1, 3), [np.array([0, lowest, 0], np.float32)])
        model.graph.node.append(helper.make_node("Softmax", ["result_0"], ["p"], name="softmax"))
        model.graph.output[0].name = "p"
        path = save(model, tmp_path)
        written = write(path, tmp_path, WriteOptions(scheme="fp16"))
        assert written.notes[1].startswith("mask 'constant_0' clamped to +-65504")
        feed = {"image": np.array([[1, 2, 3]], np.float32)}
        np.testing.assert_allclose(Program.load(tmp_path / written.file).run(feed)["p"], run_onnxruntime(path, feed)["p"], atol=1e-3)


def test_names_that_core_ml_does_not_accept_are_recorded_in_the_bindings(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["1/x"], ["a.b"], name="r"), helper.make_node("Neg", ["a.b"], ["a_b"], name="n")]
    path = save(make_model(nodes, {"1/x": (1, 2)}, ["a.b", "a_b"], {}), tmp_path)
    written = write(path, tmp_path, WriteOptions(scheme="fp16"))
    names = {binding.hub_name: binding.name for binding in (*written.inputs, *written.outputs)}
    assert len(set(names.values())) == 3
    assert all(name.isidentifier() for name in names.values())
    found = Program.load(tmp_path / written.file).run({names["1/x"]: np.array([[1, -1]], np.float32)})
    assert (found[names["a.b"]].tolist(), found[names["a_b"]].tolist()) == ([[1, 0]], [[-1, 0]])


def test_int64_input_becomes_int32_and_output_order_is_the_hubs(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["n", "one"], ["z"], name="add"), helper.make_node("Cast", ["n"], ["a"], name="cast", to=1)],
        "integers",
        [helper.make_tensor_value_info("n", TensorProto.INT64, [2])],
        [helper.make_tensor_value_info("z", TensorProto.INT64, [2]), helper.make_tensor_value_info("a", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.array([1], np.int64), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    written = write(save(onnx.shape_inference.infer_shapes(model), tmp_path), tmp_path, WriteOptions(scheme="fp16"))
    assert [(binding.name, binding.dtype) for binding in written.outputs] == [("z", "int32"), ("a", "float32")]
    found = Program.load(tmp_path / written.file).run({"n": np.array([4, -5], np.int32)})
    assert (found["z"].tolist(), found["a"].tolist()) == ([5, -4], [4.0, -5.0])


def test_the_square_root_of_a_square_stays_an_absolute_value(tmp_path: Path) -> None:
    """coremltools' fuse_pow2_sqrt, which always runs, makes sqrt(pow(x, 2)) into x."""
    nodes = [helper.make_node("Pow", ["x", "two"], ["s"], name="p"), helper.make_node("Sqrt", ["s"], ["y"], name="r")]
    path = save(make_model(nodes, {"x": (1, 2)}, ["y"], {"two": np.array(2, np.float32)}), tmp_path)
    write(path, tmp_path, FP32)
    assert Program.load(tmp_path / "model.mlpackage").run({"x": np.array([[-3, 2]], np.float32)})["y"].tolist() == [[3, 2]]


def test_a_second_write_replaces_the_first(tmp_path: Path) -> None:
    write(save(single("Relu", IMAGE), tmp_path), tmp_path, FP32)
    write(save(single("Neg", IMAGE), tmp_path), tmp_path, FP32)
    assert [operation.op_type for operation in read_function(tmp_path / "model.mlpackage").operations if operation.op_type != "const"] == [
        "mul"
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub.onnx", "model.mlpackage"]
