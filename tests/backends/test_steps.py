"""The steps around a backend: what they leave beside the artifact, and models of symbolic size."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from edgepack.backends.artifact import ArtifactDescription, Finding
from edgepack.backends.steps import as_backend_wants, obstacles, write
from edgepack.backends.table import Obstacle
from edgepack.student.spec import StudentDescription, TensorSpec
from edgepack.targets import load_target
from tests.backends.ort import models


@pytest.fixture
def student(tmp_path: Path) -> Path:
    specs = (TensorSpec("x", "float32", (1, 3, 8, 8), "NCHW"),), (TensorSpec("y", "float32", (1, 4, 8, 8), "NCHW"),)
    path = tmp_path / "student.json"
    path.write_bytes(msgspec.json.encode(StudentDescription("cats", "model.onnx", *specs, None, ("cat",), "MIT", 112)))
    np.savez(tmp_path / "example.npz", x=np.zeros((2, 3, 8, 8), np.float32))
    return path


def test_the_artifact_comes_with_its_description_and_its_lint(student: Path, tmp_path: Path) -> None:
    hub, target = models.conv_into_real(tmp_path / "hub.onnx"), load_target("raspberry-pi-5")
    write(hub, student, tmp_path / "example.npz", "ort", target.minimum_os, "w8a8", tmp_path, lambda *_: None)
    described = msgspec.json.decode((tmp_path / "artifact.json").read_bytes(), type=ArtifactDescription)
    assert (tmp_path / described.file).is_file() and described.minimum_os == target.minimum_os
    (found,) = msgspec.json.decode((tmp_path / "findings.json").read_bytes(), type=tuple[Finding, ...])
    assert found.where == "conv_1"


def test_obstacles_of_all_backends_come_in_one_list(student: Path, tmp_path: Path) -> None:
    hub = models.unknown_operator(tmp_path / "hub.onnx")
    obstacles(hub, tmp_path / "example.npz", ["ort", "tflite"], tmp_path, lambda *_: None)
    found = msgspec.json.decode((tmp_path / "obstacles.json").read_bytes(), type=tuple[Obstacle, ...])
    assert [each.backend for each in found] == ["ort", "tflite"] and found[1].node == "wave_7"


def test_a_symbolic_batch_is_pinned_to_the_example_only_for_formats_that_need_it(student: Path, tmp_path: Path) -> None:
    hub, example = models.real_conv(tmp_path / "hub.onnx", batch="batch"), tmp_path / "example.npz"
    assert as_backend_wants(hub, "ort", example, tmp_path) == hub
    fixed = onnx.load(as_backend_wants(hub, "tflite", example, tmp_path))
    assert [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in (*fixed.graph.input, *fixed.graph.output)] == [
        [2, 3, 8, 8],
        [2, 4, 8, 8],
    ]
    static = models.real_conv(tmp_path / "static.onnx")
    assert as_backend_wants(static, "tflite", example, tmp_path) == static
