"""The linter finds what was broken on purpose, in files it did not write."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest

from edgepack.backends.artifact import Finding
from edgepack.backends.tflite import lint
from tests.backends.tflite.models import convert, read_file
from tests.backends.tflite.qdq_models import SOFTMAX, Codes, Quantized
from tests.backends.tflite.test_write import quantized_cnn


def tensor(model: Any, name: str) -> Any:
    return next(held for held in model.subgraphs[0].tensors if held.name == name.encode())


def drop_signature(model: Any) -> None:
    model.signatureDefs = []


def make_custom(model: Any) -> None:
    model.operatorCodes[0].builtinCode = 32
    model.operatorCodes[0].deprecatedBuiltinCode = 32


def lower_weight(model: Any) -> None:
    buffer = model.buffers[tensor(model, "w0_c").buffer]
    buffer.data = np.where(np.arange(len(buffer.data)) == 0, 128, buffer.data).astype(np.uint8)


def scale_bias(model: Any) -> None:
    held = tensor(model, "w0_bc").quantization
    held.scale = (np.asarray(held.scale) * 1.001).astype(np.float32)


def drop_scale(model: Any) -> None:
    tensor(model, "s_q").quantization = None


def move_pool_output(model: Any) -> None:
    tensor(model, "p_q").quantization.scale = np.asarray([0.05], np.float32)


def add_graph(model: Any) -> None:
    spare = copy.copy(model.subgraphs[0])
    spare.name = b"spare"
    model.subgraphs.append(spare)


def sign_other_shape(model: Any) -> None:
    held = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]]
    held.shapeSignature = np.asarray([-1, *held.shape[1:-1], held.shape[-1] + 1], np.int32)


def lint_of(model: Any, folder: Path) -> list[Finding]:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (folder / "damaged.tflite").write_bytes(bytes(builder.Output()))
    return lint(folder / "damaged.tflite")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (drop_signature, "signature"),
        (add_graph, "nothing runs"),
        (make_custom, "builtin"),
        (lower_weight, "symmetric"),
        (scale_bias, "s_in"),
        (drop_scale, "without a scale"),
        (move_pool_output, "different scales"),
        (sign_other_shape, "shape signature"),
    ],
)
def test_damage_is_found(damage: Callable[[Any], None], said: str, rng: np.random.Generator, tmp_path: Path) -> None:
    convert(quantized_cnn(rng), tmp_path, "w8a8")
    model = read_file(tmp_path / "model.tflite")
    damage(model)
    found = lint_of(model, tmp_path)
    assert any(said in finding.message and finding.level == "error" for finding in found), found


def test_a_sigmoid_that_claims_another_encoding_is_found(rng: np.random.Generator, tmp_path: Path) -> None:
    convert(Quantized("Sigmoid", [rng.standard_normal((2, 9)).astype(np.float32)], [Codes.of(-3, 3)], SOFTMAX).hub(), tmp_path, "w8a8")
    model = read_file(tmp_path / "model.tflite")
    tensor(model, "raw_q").quantization.scale = np.asarray([1 / 255], np.float32)
    assert any("whatever the tensor says" in finding.message for finding in lint_of(model, tmp_path))


def test_another_file_is_no_flatbuffer(tmp_path: Path) -> None:
    (tmp_path / "other.tflite").write_bytes(b"PK\x03\x04 not a model")
    (finding,) = lint(tmp_path / "other.tflite")
    assert "TFL3" in finding.message
