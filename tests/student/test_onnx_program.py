"""Students that arrive as .onnx files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepack import Student, TensorSpec
from edgepack.student.program import OnnxProgram
from edgepack.student.spec import StudentError
from tests.student.modules import captured, onnx_file, run_file

ADD = [helper.make_node("Add", ["x", "w"], ["y"])]
W = {"w": np.asarray([1, 2], np.float32)}


def program(folder: Path, **options: Any) -> Any:
    return Student(onnx_file(folder, ADD, {"x": ["n", 2]}, {"y": ["n", 2]}, W), **options).program


def test_it_runs_and_is_captured_as_it_is(tmp_path: Path) -> None:
    path = onnx_file(tmp_path, ADD, {"x": [1, 2]}, {"y": [1, 2]}, W)
    feed = {"x": np.asarray([[3, 4]], np.float32)}
    assert Student(path).program.run(feed)["y"].tolist() == [[4, 6]]
    assert run_file(captured(Student(path), tmp_path), feed)["y"].tolist() == [[4, 6]]


def test_its_float64_run_keeps_what_float32_loses(tmp_path: Path) -> None:
    path = onnx_file(tmp_path, ADD, {"x": [1, 2]}, {"y": [1, 2]}, {"w": np.asarray([2**24, 0], np.float32)})
    feed = {"x": np.asarray([[1, 1]], np.float32)}
    assert Student(path).program.run(feed)["y"][0, 0] == 2**24
    assert Student(path).program.run_float64(feed)["y"][0, 0] == 2**24 + 1


def test_initializers_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    path = onnx_file(tmp_path, ADD, {"x": [1, 2], "w": [2]}, {"y": [1, 2]}, W)
    assert [spec.name for spec in Student(path).program.inputs] == ["x"]


def test_weights_in_a_file_beside_it_are_embedded_by_the_capture(tmp_path: Path) -> None:
    path = onnx_file(tmp_path, ADD, {"x": [1, 2]}, {"y": [1, 2]}, W)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    taken = captured(Student(path), tmp_path)
    (tmp_path / "weights.bin").unlink()
    assert run_file(taken, {"x": np.zeros((1, 2), np.float32)})["y"].tolist() == [[1, 2]]


def test_examples_are_drawn_from_the_declared_range_with_open_sizes_at_one(tmp_path: Path) -> None:
    given = program(tmp_path, inputs=[TensorSpec("x", layout="NC", value_range=(5.0, 6.0))])
    example = given.example()["x"]
    assert example.shape == (1, 2) and example.dtype == np.float32
    assert 5 <= example.min() <= example.max() <= 6
    assert given.inputs[0] == TensorSpec("x", "float32", ("n", 2), "NC", (5.0, 6.0))


def test_sizes_may_be_given_for_open_dimensions(tmp_path: Path) -> None:
    given = program(tmp_path, inputs=[TensorSpec("x", shape=(3, 2))])
    assert given.inputs[0].shape == (3, 2) and given.example()["x"].shape == (3, 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inputs": ["image"]}, "the model has no input 'image' -> next: its inputs are x"),
        ({"outputs": ["logits"]}, "the model has no output 'logits' -> next: its outputs are y"),
        ({"inputs": [TensorSpec("x", shape=(1, 3))]}, "input 'x' is declared float32[1, 3] but is float32['n', 2]"),
        ({"inputs": [TensorSpec("x", dtype="uint8")]}, "input 'x' is declared uint8"),
        ({"inputs": [TensorSpec("x", layout="NCHW")]}, "has layout 'NCHW' but 2 dimensions"),
        ({"example_inputs": (1,)}, "example_inputs were given for an .onnx file"),
    ],
)
def test_specs_that_do_not_fit_the_file_are_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(StudentError) as caught:
        program(tmp_path, **options)
    assert said in str(caught.value)


def test_a_nan_weight_is_named(tmp_path: Path) -> None:
    path = onnx_file(tmp_path, ADD, {"x": [1, 2]}, {"y": [1, 2]}, {"w": np.asarray([1, np.nan], np.float32)})
    with pytest.raises(StudentError, match="weight 'w' holds NaN"):
        Student(path).program  # noqa: B018


def test_a_model_that_breaks_the_specification_is_refused(tmp_path: Path) -> None:
    path = onnx_file(tmp_path, [helper.make_node("Add", ["x", "nowhere"], ["y"])], {"x": [1]}, {"y": [1]})
    with pytest.raises(StudentError, match=r"model\.onnx is not a valid ONNX model"):
        Student(path).program  # noqa: B018


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_refused(tmp_path: Path, size: int) -> None:
    path = onnx_file(tmp_path, [helper.make_node("Neg", ["x"], ["y"])], {"x": [size, 2]}, {"y": [size, 2]})
    with pytest.raises(StudentError, match="'x' is declared with shape"):
        Student(path).program  # noqa: B018


def test_an_input_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    ends = [value], [helper.make_tensor_value_info("y", TensorProto.INT64, [])]
    graph = helper.make_graph([helper.make_node("SequenceLength", ["x"], ["y"])], "g", *ends)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "sequence.onnx")
    with pytest.raises(StudentError, match="'x' is not a tensor of known rank"):
        Student(tmp_path / "sequence.onnx").program  # noqa: B018


def test_an_operator_onnxruntime_does_not_know_is_refused_when_it_runs(tmp_path: Path) -> None:
    node = helper.make_node("Twist", ["x"], ["y"], domain="my.domain")
    ends = [[helper.make_tensor_value_info(name, 1, [1])] for name in "xy"]
    graph = helper.make_graph([node], "g", *ends, [numpy_helper.from_array(np.zeros(1, np.float32), "w")])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("my.domain", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "twist.onnx")
    with pytest.raises(StudentError, match="onnxruntime cannot load the student"):
        Student(tmp_path / "twist.onnx").program.run({"x": np.zeros(1, np.float32)})


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: model.graph.initializer[0].ClearField("dims"),
        lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", 77),
        lambda model: model.graph.ClearField("output"),
        lambda model: model.graph.output.append(model.graph.output[0]),
    ],
)
def test_a_model_that_contradicts_itself_is_refused_in_a_line(tmp_path: Path, damage: Callable[[onnx.ModelProto], object]) -> None:
    path = onnx_file(tmp_path, [helper.make_node("Add", ["x", "w"], ["y"])], {"x": [2]}, {"y": [2]}, {"w": np.ones(2, np.float32)})
    model = onnx.load(path)
    damage(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(StudentError) as caught:
        OnnxProgram(path)
    assert "\n" not in str(caught.value) and caught.value.hint
