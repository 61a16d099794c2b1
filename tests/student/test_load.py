"""Every way to name a student, and every way in which that can be wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper

from edgepack import Student
from edgepack.errors import InputError
from edgepack.student.load import load_function, load_student, source_name
from edgepack.student.spec import StudentError
from tests.student.modules import IMAGE, Of2, network, onnx_file

FACTORY = """
import torch
from {sibling} import WEIGHT
from edgepack import Student

def student():
    net = torch.nn.Linear(2, 1, bias=False)
    net.weight.data.fill_(WEIGHT)
    return Student(net, (torch.ones(1, 2),), inputs=["x"], outputs=["y"])
"""


def factory(folder: Path, weight: float, sibling: str = "weights_of_student") -> str:
    folder.mkdir(exist_ok=True)
    (folder / f"{sibling}.py").write_text(f"WEIGHT = {weight}\n")
    (folder / "student.py").write_text(FACTORY.format(sibling=sibling))
    return f"{folder / 'student.py'}:student"


def answer(spec: str) -> float:
    return float(load_student(spec).program.run({"x": np.ones((1, 2), np.float32)})["y"][0, 0])


def test_a_factory_imports_the_files_beside_it(tmp_path: Path) -> None:
    assert answer(factory(tmp_path / "a", 1.5)) == 3.0


def test_two_factories_with_siblings_of_one_name_each_get_their_own(tmp_path: Path) -> None:
    first, second = factory(tmp_path / "a", 1.0), factory(tmp_path / "b", 10.0)
    assert [answer(spec) for spec in (first, second, first)] == [2.0, 20.0, 2.0]


def test_a_factory_found_by_a_relative_path_imports_its_siblings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    factory(tmp_path / "a", 4.0, "relative_sibling")
    monkeypatch.chdir(tmp_path)
    assert answer("a/student.py:student") == 8.0


def test_an_exported_program_keeps_its_input_names_and_answers_as_the_module(tmp_path: Path) -> None:
    module = Of2(lambda self, x, y: {"sum": x + y, "difference": x - y})
    torch.export.save(torch.export.export(module, (IMAGE, 2 * IMAGE)), tmp_path / "pair.pt2")
    student = load_student(str(tmp_path / "pair.pt2"))
    assert (student.name, [spec.name for spec in student.program.inputs]) == ("pair", ["x", "y"])
    results = student.program.run({"x": IMAGE.numpy(), "y": 2 * IMAGE.numpy()})
    np.testing.assert_array_equal(results["sum"], 3 * IMAGE.numpy())
    np.testing.assert_array_equal(results["difference"], -IMAGE.numpy())


def test_an_onnx_file_is_a_student_named_after_it(tmp_path: Path) -> None:
    path = onnx_file(tmp_path, [helper.make_node("Neg", ["x"], ["y"])], {"x": [1, 2]}, {"y": [1, 2]})
    student = load_student(str(path))
    assert student.name == "model"
    np.testing.assert_array_equal(student.program.run({"x": np.asarray([[1, -2]], np.float32)})["y"], [[-1, 2]])


def test_a_pack_names_the_file_and_never_its_folder() -> None:
    assert source_name("/home/me/work/student.py:student") == "student.py:student"
    assert source_name("/home/me/model.onnx") == "model.onnx"


def refusal(spec: str) -> str:
    with pytest.raises(StudentError) as caught:
        load_student(spec)
    assert caught.value.hint and "\n" not in str(caught.value)
    return str(caught.value)


def written(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


@pytest.mark.parametrize("name", ["none.py:student", "none.pt2", "none.onnx"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    assert "none." in refusal(str(tmp_path / name)) and "does not exist" in refusal(str(tmp_path / name))


@pytest.mark.parametrize(
    ("source", "function", "said"),
    [
        ("x = 1", "", "names no function"),
        ("x = 1", ":", "names no function"),
        ("x = 1", ":student", "has no function 'student'"),
        ("student = 1", ":student", "has no function 'student'"),
        ("def student(): return 1", ":student", "returned a int"),
        ("def student(): raise KeyError('weights')", ":student", "KeyError: 'weights'"),
        ("def student(folder): return 1", ":student", "missing 1 required positional argument"),
        ("import nothing_called_so", ":student", "does not import: ModuleNotFoundError"),
        ("def student(:", ":student", "does not import: SyntaxError"),
    ],
)
def test_a_factory_that_gives_no_student_says_why(tmp_path: Path, source: str, function: str, said: str) -> None:
    message = refusal(written(tmp_path, "broken.py", source) + function)
    assert "broken.py" in message and said in message


def test_an_error_of_the_factory_that_has_a_hint_keeps_it(tmp_path: Path) -> None:
    text = "from edgepack.errors import InputError\ndef student(): raise InputError('no weights', 'download them')"
    with pytest.raises(InputError, match="no weights -> next: download them"):
        load_student(written(tmp_path, "broken.py", text) + ":student")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".jit", ".ts", ".bin"])
def test_torchscript_and_pickled_files_are_refused_with_the_way_out(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    torch.jit.save(torch.jit.trace(network(), IMAGE), path)
    assert "write a factory student.py:student" in refusal(str(path))


def test_a_torchscript_file_renamed_to_pt2_is_not_an_exported_program(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(network(), IMAGE), tmp_path / "model.pt2")
    assert "is not a torch.export program" in refusal(str(tmp_path / "model.pt2"))


def test_a_file_of_no_known_form_lists_the_known_ones(tmp_path: Path) -> None:
    assert "file.py:function, a .pt2 file, an .onnx file or a Hugging Face model folder" in refusal(written(tmp_path, "model.tflite", "x"))


def test_damaged_onnx_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudentError, match=r"broken\.onnx is not a valid ONNX model"):
        load_student(written(tmp_path, "broken.onnx", b"\x08\xff\xff")).program  # noqa: B018


def test_a_function_is_only_looked_for_in_python_files(tmp_path: Path) -> None:
    with pytest.raises(StudentError, match=r"data\.txt' is no Python file"):
        load_function(Path(written(tmp_path, "data.txt", "def f(): pass")), "f")


def test_a_student_holds_what_its_factory_gave(tmp_path: Path) -> None:
    assert isinstance(load_student(factory(tmp_path / "c", 1.0)), Student)
