"""Bad input: one line with cause and next step, the right exit code, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.system.program import edgepack, failure

MANIFEST = """
name = "made"
[calibration]
npz = "data.npz"
columns = {{x = "calibration"}}
[evaluation]
npz = "data.npz"
columns = {{x = "evaluation"}}
{labels}
"""


def _onnx(path: Path, op_type: str = "Relu", domain: str = "", weight: float = 0.5, shape: tuple[int, ...] = (1, 3, 4, 4)) -> Path:
    """x -> Conv -> op -> y."""
    kernel = np.full((2, 3, 1, 1), weight, np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"], name="conv"), helper.make_node(op_type, ["c"], ["y"], name="odd", domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2) if op_type == "Det" else (1, 2, 4, 4))],
        [numpy_helper.from_array(kernel, "w")],
    )
    imports = [helper.make_opsetid("", 21), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


def _data(folder: Path, calibration: np.ndarray | None = None, evaluation: np.ndarray | None = None, labels: object = None) -> Path:
    random = np.random.default_rng(0)
    made = {name: random.uniform(0, 1, (4, 1, 3, 4, 4)).astype(np.float32) for name in ("calibration", "evaluation")}
    made["calibration"] = made["calibration"] if calibration is None else calibration
    made["evaluation"] = made["evaluation"] if evaluation is None else evaluation
    if labels is not None:
        made["labels"] = np.asarray(labels)
    np.savez(folder / "data.npz", **made)
    (folder / "calibration.toml").write_text(MANIFEST.format(labels='labels = "labels"' if labels is not None else ""))
    return folder / "calibration.toml"


def _python(folder: Path, body: str, arguments: str = "") -> str:
    """A student.py whose forward is ``body``."""
    (folder / "student.py").write_text(f"""
import torch
from edgepack import ImagePreprocessing, Student, TensorSpec

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 1)

    def forward(self, x):
        {body}

def student():
    torch.manual_seed(0)
    return Student(Net(), example_inputs=(torch.zeros(1, 3, 4, 4),), inputs=["x"], outputs=["y"]{arguments})
""")
    return f"{folder / 'student.py'}:student"


def _refused(tmp_path: Path, *arguments: str | Path, code: int = 2) -> str:
    """Run a build that must fail, and check that it left nothing where the pack would be."""
    before = {path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts}
    ended = edgepack("build", *arguments, "-o", tmp_path / "pack", "--latency", "none", cwd=tmp_path)
    line = failure(ended)
    assert ended.returncode == code, line
    after = {path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts}
    assert after == before
    return line


@pytest.mark.parametrize("student", ["missing.onnx", "missing.py:student", "missing.pt2", "model.h5"])
def test_a_missing_or_foreign_student_file(tmp_path: Path, student: str) -> None:
    line = _refused(tmp_path, student)
    assert "does not exist" in line or "no known form" in line


def test_a_student_whose_factory_raises(tmp_path: Path) -> None:
    (tmp_path / "student.py").write_text("def student():\n    raise ValueError('no weights here')\n")
    assert "ValueError: no weights here" in _refused(tmp_path, f"{tmp_path / 'student.py'}:student")


def test_a_student_whose_forward_raises(tmp_path: Path) -> None:
    line = _refused(tmp_path, _python(tmp_path, "raise RuntimeError('shapes differ')"))
    assert "forward raised RuntimeError: shapes differ" in line


def test_nan_in_the_weights_of_a_torch_student_names_the_weight(tmp_path: Path) -> None:
    spec = _python(tmp_path, "return self.conv(x)")
    source = (tmp_path / "student.py").read_text()
    (tmp_path / "student.py").write_text(source.replace("Conv2d(3, 2, 1)", "Conv2d(3, 2, 1); self.conv.weight.data[0] = float('nan')"))
    assert "weight 'conv.weight' holds NaN" in _refused(tmp_path, spec)


def test_nan_in_the_weights_of_an_onnx_student_names_the_weight(tmp_path: Path) -> None:
    assert "weight 'w' holds NaN" in _refused(tmp_path, _onnx(tmp_path / "m.onnx", weight=float("nan")))


def test_an_operator_of_no_onnx_domain_is_refused_with_its_node(tmp_path: Path) -> None:
    line = _refused(tmp_path, _onnx(tmp_path / "m.onnx", "Mystery", "my.domain"))
    assert "Mystery" in line


@pytest.mark.parametrize(("target", "backend"), [("android", "tflite"), ("ios", "coreml")])
def test_an_operator_a_backend_lacks_is_refused_by_that_backend_with_node_and_hint(tmp_path: Path, target: str, backend: str) -> None:
    line = _refused(tmp_path, _onnx(tmp_path / "m.onnx", "Det", shape=(1, 3, 4, 4)), "-t", target)
    assert f"{backend}: Det 'odd'" in line


def test_inspect_lists_the_obstacles_of_all_targets_at_once(tmp_path: Path) -> None:
    ended = edgepack("inspect", _onnx(tmp_path / "m.onnx", "Det"), cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stdout.count("Det 'odd'") == 2
    assert "raspberry-pi-5: converts" in ended.stdout


def test_an_empty_calibration_set(tmp_path: Path) -> None:
    manifest = _data(tmp_path, calibration=np.zeros((0, 1, 3, 4, 4), np.float32))
    assert "the calibration set is empty" in _refused(tmp_path, _onnx(tmp_path / "m.onnx"), "-c", manifest)


def test_samples_of_another_shape(tmp_path: Path) -> None:
    manifest = _data(tmp_path, calibration=np.zeros((4, 3, 4, 4), np.float32))
    line = _refused(tmp_path, _onnx(tmp_path / "m.onnx"), "-c", manifest)
    assert "shape [3, 4, 4], the student takes [1, 3, 4, 4]" in line


def test_samples_of_another_dtype(tmp_path: Path) -> None:
    manifest = _data(tmp_path, calibration=np.zeros((4, 1, 3, 4, 4), np.float64))
    assert "float64, the student takes float32" in _refused(tmp_path, _onnx(tmp_path / "m.onnx"), "-c", manifest)


def test_pixels_of_255_where_the_student_takes_0_to_1(tmp_path: Path) -> None:
    manifest = _data(tmp_path, calibration=np.full((4, 1, 3, 4, 4), 255, np.float32))
    spec = _python(tmp_path, "return self.conv(x)", ", preprocessing=ImagePreprocessing(4, 4)")
    line = _refused(tmp_path, spec, "-c", manifest)
    assert "spans 255..255, the student takes 0..1" in line
    assert "divide by 255" in line


def test_a_label_out_of_range(tmp_path: Path) -> None:
    manifest = _data(tmp_path, labels=[0, 1, 2, 7])
    manifest.write_text('student_labels = ["a", "b", "c", "d"]\n' + manifest.read_text())
    assert "evaluation label 7 of sample 3 is outside 0..3" in _refused(tmp_path, _onnx(tmp_path / "m.onnx"), "-c", manifest)


def test_the_same_sample_in_calibration_and_evaluation(tmp_path: Path) -> None:
    shared = np.random.default_rng(1).uniform(0, 1, (4, 1, 3, 4, 4)).astype(np.float32)
    manifest = _data(tmp_path, calibration=shared, evaluation=shared[::-1].copy())
    assert "4 evaluation samples are also calibration samples" in _refused(tmp_path, _onnx(tmp_path / "m.onnx"), "-c", manifest)


def test_a_manifest_with_an_unknown_field(tmp_path: Path) -> None:
    manifest = _data(tmp_path)
    manifest.write_text(manifest.read_text().replace("npz", "zip"))
    assert "is not a calibration manifest" in _refused(tmp_path, _onnx(tmp_path / "m.onnx"), "-c", manifest)


def test_a_static_scheme_without_calibration(tmp_path: Path) -> None:
    assert "w8a8 needs a calibration set" in _refused(tmp_path, _onnx(tmp_path / "m.onnx"), "-s", "w8a8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-t", "fridge"), "no target 'fridge'"),
        (("-s", "int8"), "'int8' is not a scheme name"),
        (("-s", "w4b32"), "does not carry scheme w4b32"),
        (("-c", "absent.toml"), "absent.toml cannot be read"),
        (("--ranges", "guess"), "range method 'guess'"),
        (("--metric", "m.py:f"), "needs an evaluation set"),
    ],
)
def test_an_option_that_means_nothing(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in _refused(tmp_path, _onnx(tmp_path / "m.onnx"), *arguments)


def test_an_output_folder_that_is_not_a_pack_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    ended = edgepack("build", _onnx(tmp_path / "m.onnx"), "-o", tmp_path / "precious", cwd=tmp_path)
    assert "exists and is not a pack" in failure(ended)
    assert ended.returncode == 2
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, a folder that not even root can write")
def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    ended = edgepack("build", _onnx(tmp_path / "m.onnx"), "-o", "/proc/self/pack", cwd=tmp_path)
    line = failure(ended)
    assert ended.returncode == 2
    assert "not writable" in line or "does not exist" in line or "cannot be written" in line


def test_a_runner_that_hangs_is_ended_and_named(tmp_path: Path) -> None:
    """A Loop of 2^40 turns never answers; the step's time limit ends it."""
    line = _refused(tmp_path, _endless(tmp_path / "m.onnx"), "-t", "raspberry-pi-5", "--timeout", "8", code=3)
    assert "hung" in line


def _endless(path: Path) -> Path:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"]), helper.make_node("Identity", ["held"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held", TensorProto.FLOAT, [1, 3]),
        ],
        [helper.make_tensor_value_info("again", TensorProto.BOOL, []), helper.make_tensor_value_info("next", TensorProto.FLOAT, [1, 3])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["turns", "go", "x"], ["y"], name="forever", body=body)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.asarray(2**40), "turns"), numpy_helper.from_array(np.asarray(True), "go")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_json_failures_are_data(tmp_path: Path) -> None:
    import json

    ended = edgepack("build", "missing.onnx", "--json", cwd=tmp_path)
    said = json.loads(ended.stdout)
    assert ended.returncode == 2
    assert said["ok"] is False
    assert said["exit_code"] == 2
    assert said["step"] == "capture"
    assert "does not exist" in said["cause"]
