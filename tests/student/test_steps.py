"""The student's steps: what they write, against the module itself."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from onnx import helper

from edgepack.arrays import load_arrays
from edgepack.calibration.manifest import CalibrationSet
from edgepack.calibration.readers import Samples
from edgepack.student.spec import StudentDescription, StudentError
from edgepack.student.steps import capture, reference
from tests.student.modules import onnx_file, run_file

SOURCE = """
import torch
from edgepack import Student, TensorSpec

class Net(torch.nn.Module):
    def forward(self, image):
        return image.mean((2, 3)) / 3

def student():
    return Student(Net(), (torch.ones(1, 3, 4, 4),), [TensorSpec("image", layout="NCHW")], ["scores"], labels=("a", "b", "c"))
"""
MANIFEST = """
name = "set"
student_labels = ["cat", "dog"]
[calibration]
npz = "x.npz"
[preprocessing]
height = 4
width = 4
channels = 3
"""


def nothing(done: int, total: int) -> None:
    pass


def student(folder: Path) -> str:
    (folder / "net.py").write_text(SOURCE)
    return f"{folder / 'net.py'}:student"


def given(manifest: Path) -> dict[str, Any]:
    """What a manifest says in a student's place, as the pipeline hands it on."""
    held = CalibrationSet.load(manifest)
    return {"preprocessing": msgspec.to_builtins(held.preprocessing), "labels": list(held.student_labels)}


def described(folder: Path) -> StudentDescription:
    return msgspec.json.decode((folder / "student.json").read_bytes(), type=StudentDescription)


def test_capture_writes_the_model_its_example_and_its_description(tmp_path: Path) -> None:
    capture(student(tmp_path), tmp_path, nothing)
    held = described(tmp_path)
    assert (held.source, held.labels, held.outputs[0].shape) == ("net.py:student", ("a", "b", "c"), (1, 3))
    example = load_arrays(tmp_path / "example.npz")
    assert run_file(tmp_path / "captured.onnx", example)["scores"] == pytest.approx(np.full((1, 3), 1 / 3))


def test_reference_answers_every_sample_in_both_precisions(tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((5, 1, 3, 4, 4)).astype(np.float32)
    Samples({"image": images}).save(tmp_path / "golden.npz")
    Samples({"image": images[:2]}).save(tmp_path / "evaluation.npz")
    reference(student(tmp_path), tmp_path / "golden.npz", tmp_path, nothing, evaluation=tmp_path / "evaluation.npz")
    single, double = load_arrays(tmp_path / "golden_outputs.npz")["scores"], load_arrays(tmp_path / "golden_reference.npz")["scores"]
    np.testing.assert_array_equal(single, torch.from_numpy(images).mean((3, 4)) / 3)
    np.testing.assert_allclose(double, images.astype(np.float64).mean((3, 4)) / 3, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(load_arrays(tmp_path / "evaluation_outputs.npz")["scores"], single[:2])


def image_model(folder: Path, classes: int) -> str:
    nodes = [helper.make_node("GlobalAveragePool", ["image"], ["p"]), helper.make_node("Flatten", ["p"], ["scores"])]
    return str(onnx_file(folder, nodes, {"image": [1, classes, 4, 4]}, {"scores": [1, classes]}))


def test_a_manifest_gives_an_onnx_student_what_its_file_cannot_hold(tmp_path: Path) -> None:
    (tmp_path / "set.toml").write_text(MANIFEST)
    capture(image_model(tmp_path, 2), tmp_path, nothing, **given(tmp_path / "set.toml"))
    held = described(tmp_path)
    assert held.preprocessing is not None and held.labels == ("cat", "dog")
    assert (held.inputs[0].value_range, held.inputs[0].layout) == ((0.0, 1.0), "NCHW")


def test_a_manifest_does_not_overrule_what_the_student_declares(tmp_path: Path) -> None:
    (tmp_path / "set.toml").write_text(MANIFEST)
    capture(student(tmp_path), tmp_path, nothing, **given(tmp_path / "set.toml"))
    assert described(tmp_path).labels == ("a", "b", "c")


def test_labels_of_a_manifest_that_are_not_the_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "set.toml").write_text(MANIFEST)
    with pytest.raises(StudentError, match="2 labels and output 'scores' has 3 classes"):
        capture(image_model(tmp_path, 3), tmp_path, nothing, **given(tmp_path / "set.toml"))
