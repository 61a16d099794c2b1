"""Torch students: what runs, what is captured, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgepack import ImagePreprocessing, Student, TensorSpec
from edgepack.hub.canonical import canonicalize
from edgepack.hub.pin import pinned, symbols
from edgepack.student.spec import StudentError
from tests.student.modules import IMAGE, Of1, Of2, captured, network, run_file

# fp32 sums of at most 27 products of order 1: 27 * 2^-24 is 1.6e-6, doubled for two kernels.
FP32 = 4e-6


def test_a_capture_answers_as_the_module_on_an_input_it_was_not_captured_with(tmp_path: Path) -> None:
    module, other = network(), torch.randn(1, 3, 8, 8)
    path = captured(Student(module, (IMAGE,), ["image"], ["logits"]), tmp_path)
    np.testing.assert_allclose(run_file(path, {"image": other.numpy()})["logits"], module(other).detach(), atol=FP32)


def test_a_capture_is_one_file_without_external_data(tmp_path: Path) -> None:
    captured(Student(torch.nn.Linear(64, 64), (torch.ones(1, 64),), ["x"], ["y"]), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["captured.onnx"]


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda self, x: {"plus": x + 1, "double": x * 2}, ["plus", "double"]),
        (lambda self, x: (x + 1, [x * 2, {"n": -x}]), ["a", "b", "c"]),
        (lambda self, x: [y := x + 1, y], ["once", "again"]),
        (lambda self, x: (x, x + 1), ["untouched", "plus"]),
        (lambda self, x: torch.relu(torch.relu(x) + 1), ["relu"]),
        (lambda self, x: (x + 1, x * 2), ["mul", "add"]),
        (lambda self, x: (x > 0, x.argmax(1)), ["positive", "class"]),
    ],
    ids=["dict", "nested", "one tensor twice", "input passed on", "name of a node", "names of each other's nodes", "bool and int64"],
)
def test_outputs_of_any_structure_keep_order_and_names_through_the_hub(tmp_path: Path, function: Any, names: list[str]) -> None:
    student = Student(Of1(function), (IMAGE,), ["x"], names)
    hub = canonicalize(onnx.load(captured(student, tmp_path)), student.program.example())
    import onnx_ir as ir

    ir.save(hub.model, tmp_path / "hub.onnx")
    wanted, found = student.program.run({"x": IMAGE.numpy()}), run_file(tmp_path / "hub.onnx", {"x": IMAGE.numpy()})
    assert list(found) == names == list(wanted)
    for name in names:
        assert found[name].dtype == wanted[name].dtype
        np.testing.assert_array_equal(found[name], wanted[name])


def test_two_inputs_are_fed_in_the_order_of_forward(tmp_path: Path) -> None:
    student = Student(Of2(lambda self, x, y: x - 2 * y), (IMAGE, IMAGE), ["b", "a"], ["out"])
    feed = {"a": np.full((1, 3, 8, 8), 5, np.float32), "b": np.full((1, 3, 8, 8), 1, np.float32)}
    assert float(student.program.run(feed)["out"].max()) == -9
    assert float(run_file(captured(student, tmp_path), feed)["out"].max()) == -9


def test_names_left_out_are_numbered() -> None:
    program = Student(Of2(lambda self, x, y: (x, x + y)), (IMAGE, IMAGE)).program
    assert [spec.name for spec in (*program.inputs, *program.outputs)] == ["input_0", "input_1", "output_0", "output_1"]


def test_token_ids_stay_int64() -> None:
    program = Student(torch.nn.Embedding(10, 4), (torch.tensor([[1, 2, 3]]),), ["ids"], ["vectors"]).program
    assert program.inputs[0] == TensorSpec("ids", "int64", (1, 3))
    assert program.run(program.example())["vectors"].shape == (1, 3, 4)


@pytest.mark.parametrize(
    "module",
    [
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5)),
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5)),
    ],
    ids=["flatten", "pool"],
)
def test_a_symbolic_batch_is_captured_open_and_pins_to_any_size(tmp_path: Path, module: torch.nn.Module) -> None:
    student = Student(module, (IMAGE,), [TensorSpec("image", shape=("batch", 3, 8, 8))], ["logits"])
    hub = canonicalize(onnx.load(captured(student, tmp_path)), student.program.example())
    assert symbols(hub.model) == ["batch"]
    import onnx_ir as ir

    five = torch.randn(5, 3, 8, 8)
    for model, name in ((hub.model, "open.onnx"), (pinned(hub.model, {"image": (5, 3, 8, 8)}), "pinned.onnx")):
        ir.save(model, tmp_path / name)
        np.testing.assert_allclose(run_file(tmp_path / name, {"image": five.numpy()})["logits"], module(five).detach(), atol=2e-5)
    assert [dim.dim_value for dim in onnx.load(tmp_path / "pinned.onnx").graph.output[0].type.tensor_type.shape.dim] == [5, 5]


def test_one_symbol_on_two_inputs_is_one_dimension(tmp_path: Path) -> None:
    specs = [TensorSpec("a", shape=("batch", 4)), TensorSpec("b", shape=("batch", 4))]
    path = captured(Student(Of2(lambda self, x, y: x + y), (torch.ones(1, 4), torch.ones(1, 4)), specs, ["sum"]), tmp_path)
    shapes = [value.type.tensor_type.shape.dim[0].dim_param for value in onnx.load(path).graph.input]
    assert shapes[0] == shapes[1] != ""


def test_a_size_that_forward_fixes_cannot_be_symbolic(tmp_path: Path) -> None:
    student = Student(Of1(lambda self, x: x.reshape(4)), (torch.ones(1, 4),), [TensorSpec("x", shape=("batch", 4))], ["y"])
    with pytest.raises(StudentError, match=r"torch\.onnx\.export cannot capture the student"):
        captured(student, tmp_path)


def test_dropout_is_off_when_the_student_runs() -> None:
    module = torch.nn.Dropout(0.9).train()
    result = Student(module, (IMAGE,), ["x"], ["y"]).program.run({"x": IMAGE.numpy()})
    np.testing.assert_array_equal(result["y"], IMAGE)


def test_the_value_range_of_pixels_is_given_to_the_single_image_input() -> None:
    preprocessing = ImagePreprocessing(8, 8, mean=(0.5,), std=(0.25,))
    described = Student(network(), (IMAGE,), ["image"], ["logits"], preprocessing=preprocessing).describe("student.py:student")
    assert described.inputs[0].value_range == (-2.0, 2.0)
    assert described.parameters == 3 * 4 * 9 + 4 + 4 + 4 + 4 * 5 + 5


def test_a_range_of_pixels_is_not_put_on_the_inputs_of_a_student_with_several() -> None:
    student = Student(Of2(lambda self, x, y: x + y), (IMAGE, IMAGE), ["a", "b"], ["o"], preprocessing=ImagePreprocessing(8, 8))
    assert [spec.value_range for spec in student.describe("s").inputs] == [None, None]


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(StudentError) as caught:
        Student(*arguments, **options).describe("student.py:student")
    assert caught.value.hint and "\n" not in str(caught.value)
    return caught.value.cause


def with_weight(value: float) -> torch.nn.Module:
    module = torch.nn.Linear(8, 2)
    module.weight.data[1, 3] = value
    return module


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((torch.jit.script(torch.nn.Linear(8, 2)), (IMAGE,)), "is a TorchScript module"),
        ((lambda x: x, (IMAGE,)), "the student's module is a function"),
        ((network(), ()), "no example inputs"),
        ((network(), IMAGE), "example_inputs is one tensor"),
        ((network(), ([IMAGE],)), "example input 0 is a list"),
        ((network(), (IMAGE, 3)), "example input 1 is a int"),
        ((network(), (IMAGE.to("meta"),)), "example input 0 is on meta"),
        ((network().to("meta"), (IMAGE,)), "the student's weights are on meta"),
        ((network(), (IMAGE.bfloat16(),)), "example input 0 is bfloat16"),
        ((network(), (torch.ones(1, 4, 8, 8),)), "forward raised RuntimeError"),
        ((network(), (IMAGE, IMAGE)), "forward raised TypeError"),
        ((Of1(lambda self, x: "text"), (IMAGE,)), "returns something that is not a tensor"),
        ((Of1(lambda self, x: (x, None)), (IMAGE,)), "returns something that is not a tensor"),
        ((Of1(lambda self, x: ()), (IMAGE,)), "returns something that is not a tensor"),
        ((network(), (IMAGE,), ["a", "b"]), "has 1 inputs but 2 are named (a, b)"),
        ((network(), (IMAGE,), ["a"], ["b", "c"]), "has 1 outputs but 2 are named (b, c)"),
        ((network(), (IMAGE,), ["x"], ["x"]), "the name 'x' stands for 2 tensors"),
        ((network(), (IMAGE,), [""], ["y"]), "the name '' stands for 1 tensors"),
        (
            (network(), (IMAGE,), [TensorSpec("x", shape=(1, 3, 9, 9))]),
            "input 'x' is declared float32[1, 3, 9, 9] but is float32[1, 3, 8, 8]",
        ),
        ((network(), (IMAGE,), [TensorSpec("x", dtype="uint8")]), "is declared uint8"),
        ((network(), (IMAGE,), [TensorSpec("x", layout="NC")]), "has layout 'NC' but 4 dimensions"),
        ((with_weight(float("nan")), (IMAGE,)), "weight 'weight' holds NaN"),
        ((with_weight(float("inf")), (IMAGE,), ["x"], ["logits"]), "output 'logits' is not finite"),
        ((Of1(lambda self, x: x.log()), (torch.zeros(1, 2),), ["x"], ["y"]), "output 'y' is not finite"),
    ],
)
def test_a_student_that_does_not_fit_together_is_refused(arguments: tuple[Any, ...], said: str) -> None:
    assert said in refusal(*arguments)


def test_labels_that_are_not_the_classes_are_refused() -> None:
    assert "has 2 labels and output 'logits' has 5 classes" in refusal(network(), (IMAGE,), ["x"], ["logits"], labels=("cat", "dog"))


def test_a_program_exported_with_keywords_is_refused() -> None:
    program = torch.export.export(Of2(lambda self, x, y: x + y), (IMAGE,), {"y": IMAGE})
    assert "exported with keyword arguments (y)" in refusal(program)


def test_a_forward_that_cannot_be_captured_names_the_exporter_and_its_reason(tmp_path: Path) -> None:
    module = Of1(lambda self, x: x + 1 if x.sum() > 0 else x - 1)
    with pytest.raises(StudentError, match=r"torch\.onnx\.export cannot capture the student \(.+\) -> next: see the log"):
        captured(Student(module, (IMAGE,), ["x"], ["y"]), tmp_path)


class Keyed(torch.nn.Module):
    """Returns a dict, as models of transformers do."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"double": 2 * x, "triple": 3 * x}


@pytest.mark.parametrize("outputs", [(), ("triple", "double"), ("double", "triple")])
def test_a_dict_keeps_its_keys_however_the_outputs_are_listed(outputs: tuple[str, ...], tmp_path: Path) -> None:
    program = Student(Keyed(), (torch.ones(1, 2),), ["x"], outputs).program
    feed = {"x": np.asarray([[1.0, -2.0]], np.float32)}
    program.capture(tmp_path / "m.onnx")
    for answer in (program.run(feed), program.run_float64(feed), run_file(tmp_path / "m.onnx", feed)):
        np.testing.assert_array_equal(answer["double"], 2 * feed["x"])
        np.testing.assert_array_equal(answer["triple"], 3 * feed["x"])


def test_names_of_ones_own_go_by_position_and_a_mixture_is_refused() -> None:
    assert [spec.name for spec in Student(Keyed(), (torch.ones(1, 2),), ["x"], ["a", "b"]).program.outputs] == ["a", "b"]
    with pytest.raises(StudentError, match="name only some"):
        _ = Student(Keyed(), (torch.ones(1, 2),), ["x"], ["triple", "b"]).program


def test_an_input_that_forward_takes_among_others_can_be_symbolic(tmp_path: Path) -> None:
    class Sum(torch.nn.Module):
        def forward(self, first: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
            return first + others[0] + others[1]

    specs = [TensorSpec(name, shape=("batch", 4)) for name in "abc"]
    path = captured(Student(Sum(), (torch.ones(2, 4), torch.ones(2, 4), torch.ones(2, 4)), specs, ["sum"]), tmp_path)
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in onnx.load(path).graph.input} == {"batch"}
    feed = {name: np.full((7, 4), place, np.float32) for place, name in enumerate("abc")}
    np.testing.assert_array_equal(run_file(path, feed)["sum"], np.full((7, 4), 3, np.float32))
