"""``--fold-preprocessing`` and ``--image-inputs``: artifacts take pixels and answer as the student does on what its preprocessing makes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgepack.arrays import load_arrays, save_arrays
from edgepack.backends.coreml.images import image_of
from edgepack.mil.environment import coremltools
from edgepack.pack.files import load_pack
from edgepack.pack.manifest import Pack
from edgepack.student.spec import ImagePreprocessing
from tests.system.other_students import mobile_classifier
from tests.system.program import edgepack, failure

PREPROCESSING = ImagePreprocessing(24, 20, 3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
INPUT, OUTPUT = "in put:0", "out/1"
MANIFEST = """
name = "noise"
student_labels = ["a", "b", "c", "d", "e", "f", "g"]
[calibration]
npz = "pixels.npz"
[preprocessing]
height = 24
width = 20
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
"""
# As tests/system/test_other_students.py: fp32 against float64, and int8 of a network of this depth.
FP32_DB, W8A8_DB = 115.0, 24.0


def pictures(count: int, seed: int) -> NDArray[np.uint8]:
    """Blurred noise of every brightness, as a photo is more than white noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 6, 5, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize((20, 24), Image.Resampling.BICUBIC)) for each in coarse])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A three-channel student whose first Conv pads, its set, a photo, and its pack on pixels."""
    place = tmp_path_factory.mktemp("pixels")
    mobile_classifier(place / "student.onnx")
    save_arrays(place / "pixels.npz", {INPUT: pictures(24, 1)})
    (place / "set.toml").write_text(MANIFEST)
    Image.fromarray(pictures(1, 2)[0]).save(place / "photo.png")
    ended = edgepack("build", "student.onnx", "-c", "set.toml", "-o", "pack", "--latency", "none", "--image-inputs", cwd=place)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return place


@pytest.fixture(scope="module")
def pack(folder: Path) -> Pack:
    return load_pack(folder / "pack")


def test_every_artifact_passes_against_the_student_on_normalized_values(pack: Pack) -> None:
    assert len(pack.artifacts) == 6
    for artifact in pack.artifacts:
        assert artifact.failures == ()
        (output,) = artifact.parity.outputs
        bar = FP32_DB if artifact.scheme == "fp32" else W8A8_DB
        assert output.sqnr_db is not None and output.sqnr_db > bar, (artifact.target, artifact.scheme)


def test_the_pack_says_that_pixels_go_in(pack: Pack, folder: Path) -> None:
    assert pack.student.preprocessing is not None and pack.student.preprocessing.folded
    assert pack.student.inputs[0].value_range == (0.0, 255.0)
    assert any("takes pixels 0 to 255" in note for note in pack.hubs[0].notes)
    golden = load_arrays(folder / "pack" / pack.golden_inputs.path)[f"input:{INPUT}"]
    np.testing.assert_array_equal(golden, np.clip(np.rint(golden), 0, 255))
    assert golden.max() > 200


def test_codes_of_the_int8_input_are_the_pixels(pack: Pack, folder: Path) -> None:
    assert pack.constraints is not None
    held = json.loads((folder / "pack" / pack.constraints.path).read_text())
    assert held["activations"][INPUT] == {"scale": 1.0, "zero_point": 0}
    assert held["real"] == {}


def test_tflite_keeps_one_partition(pack: Pack) -> None:
    for artifact in pack.artifacts:
        if artifact.platform == "android":
            assert "partitions: 1" in artifact.notes


def test_a_photo_gets_the_answer_of_the_student_in_onnxruntime(folder: Path) -> None:
    """The student's own file, fed with what Pillow and numpy make of the photo, against every artifact fed with the photo."""
    ended = edgepack("run", "pack", "photo.png", "--no-time", "--json", cwd=folder)
    assert ended.returncode == 0, ended.stderr
    pixels = np.asarray(Image.open(folder / "photo.png"), np.float32)
    values = ((pixels / 255 - PREPROCESSING.mean) / PREPROCESSING.std).transpose(2, 0, 1)[None].astype(np.float32)
    session = onnxruntime.InferenceSession(folder / "student.onnx", providers=["CPUExecutionProvider"])
    (wanted,) = session.run([OUTPUT], {INPUT: values})
    for answer in json.loads(ended.stdout)["answers"]:
        # A probability moves by a quarter of its logit's error at most: 1e-5 in fp32, 0.2 of a logit at 24 dB.
        tolerance = 1e-5 if answer["scheme"] == "fp32" else 0.05
        np.testing.assert_allclose(np.asarray(answer["outputs"][OUTPUT]), wanted, atol=tolerance, rtol=0)


def test_core_ml_takes_an_image_and_says_its_labels(pack: Pack, folder: Path) -> None:
    packages = [artifact for artifact in pack.artifacts if artifact.platform == "ios"]
    assert len(packages) == 2
    for artifact in packages:
        spec = coremltools().utils.load_spec(str(folder / "pack" / artifact.file.path))
        (held,) = spec.description.input
        assert image_of(held.type) == (24, 20, "RGB")
        stated = dict(spec.description.metadata.userDefined)
        assert json.loads(stated["labels"]) == list("abcdefg")
        assert json.loads(stated["normalization"]) == {held.name: {"mean": [0.0] * 3, "std": [1.0] * 3}}


def test_a_student_without_preprocessing_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    ended = edgepack("build", folder / "student.onnx", "-o", "p", "--fold-preprocessing", "--latency", "none", cwd=tmp_path)
    assert ended.returncode == 2
    assert "declares no preprocessing" in failure(ended)
    assert not (tmp_path / "p").exists()


def test_image_inputs_without_core_ml_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    ended = edgepack("build", folder / "student.onnx", "-t", "android", "-o", "p", "--image-inputs", cwd=tmp_path)
    assert ended.returncode == 2
    assert "no target of this build" in failure(ended)


def test_a_student_with_codes_of_its_own_is_refused_in_one_line(tmp_path: Path) -> None:
    weights = {"scale": np.asarray(0.1, np.float32), "zero": np.asarray(0, np.uint8)}
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        onnx.helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["y"]),
    ]
    ends = [[onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 3, 24, 20))] for name in "xy"]
    held = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = onnx.helper.make_graph(nodes, "own", ends[0], ends[1], held)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10), tmp_path / "own.onnx")
    ended = edgepack("build", "own.onnx", "-t", "android", "-o", "p", "--fold-preprocessing", cwd=tmp_path)
    assert ended.returncode == 2
    assert "codes of its own" in failure(ended)
