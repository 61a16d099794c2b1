"""Students built for TensorFlow Lite 2.14: every artifact passes in it and answers as in LiteRT, or is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import onnx
import pytest
from onnx import TensorProto, helper

from edgepack.calibration.readers import Samples
from edgepack.converter.step import Limits
from edgepack.devices.tflite_runtime import VERSIONS
from edgepack.pack.files import load_pack
from edgepack.pack.manifest import ArtifactRecord
from edgepack.pack.run import infer
from edgepack.verify.metrics import sqnr_db
from tests.old_runtime import demanded
from tests.system.program import DIGITS, ROOT, edgepack, failure

TARGET = "android-legacy"
SCHEMES = ("fp32", "fp16", "w8")
LIMITS = Limits(300.0, 4 * 2**30)


@pytest.fixture(scope="module", autouse=True)
def old() -> None:
    demanded()


def built(place: Path, student: str, manifest: str, *schemes: str) -> Path:
    chosen = [word for scheme in schemes for word in ("-s", scheme)]
    ended = edgepack(
        *("build", student, "-c", ROOT / "calibration" / manifest, "-t", TARGET, *chosen, "-o", place / "pack", "--latency", "none"),
        cwd=place,
        seconds=1500,
    )
    assert ended.returncode in (0, 1), ended.stderr + ended.stdout
    return place / "pack"


def in_litert(artifact: ArtifactRecord) -> ArtifactRecord:
    """The same file, for today's runtime."""
    return msgspec.structs.replace(artifact, runner="litert")


def demand_equal(folder: Path) -> None:
    """Both runtimes on the golden samples.

    What float32 rounding leaves of two networks of tens of layers, 100 dB (FACTS: torch against onnxruntime 112 dB).
    """
    pack = load_pack(folder)
    golden = Samples.open(folder / pack.golden_inputs.path).arrays
    for artifact in pack.artifacts:
        # What a scheme costs a student is the same everywhere, and is no matter of this runtime.
        assert all("points below the student's" in failure for failure in artifact.failures), artifact.failures
        assert (artifact.runner, artifact.runtime) == ("tflite_runtime", f"tflite-runtime {VERSIONS['tflite-runtime']}")
        then, now = (infer(folder, held, golden, LIMITS)[0] for held in (artifact, in_litert(artifact)))
        for name, array in now.items():
            assert sqnr_db(array, then[name]) >= 100, (artifact.scheme, name)


@pytest.mark.slow
def test_the_digits_student_passes_and_answers_as_in_litert(tmp_path: Path) -> None:
    folder = built(tmp_path, f"{DIGITS / 'student.py'}:student", "digits.toml", *SCHEMES)
    assert {artifact.scheme for artifact in load_pack(folder).artifacts} == set(SCHEMES)
    demand_equal(folder)
    timed = edgepack("bench", folder, "--device", "local", "--profile", "smoke", "-s", "fp32", "--json", "--no-save", cwd=tmp_path)
    assert timed.returncode == 0, timed.stderr
    (measured,) = json.loads(timed.stdout)["measurements"]
    assert measured["scheme"] == "fp32" and measured["latency"]["samples"] > 0 and not measured["failures"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "manifest"),
    [("digit_scenes", "digit_scenes.toml"), ("efficientnet_lite0", "efficientnet_photos.toml")],
)
def test_the_larger_students_do_too(student: str, manifest: str, tmp_path: Path) -> None:
    path = ROOT / "demo_app" / "students" / student / "student.py"
    demand_equal(built(tmp_path, f"{path}:student", manifest, *SCHEMES))


def seven_axes(path: Path) -> Path:
    """A student that turns a tensor of seven axes, which LiteRT does and 2.14 does not."""
    shape = [2, 1, 3, 2, 2, 3, 2]
    perm = [6, 4, 2, 0, 1, 3, 5]
    graph = helper.make_graph(
        [helper.make_node("Transpose", ["x"], ["y"], "turn", perm=perm)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[axis] for axis in perm])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_an_operator_that_is_too_new_is_refused_with_its_name_and_inspect_says_so(tmp_path: Path) -> None:
    student = seven_axes(tmp_path / "student.onnx")
    ended = edgepack("build", student, "-t", TARGET, "-s", "fp32", "-o", "pack", cwd=tmp_path)
    said = "Transpose 'turn': it becomes TRANSPOSE version 8, and TensorFlow Lite 2.14 knows versions up to 6"
    assert ended.returncode == 2 and said in failure(ended)
    assert not (tmp_path / "pack").exists()
    looked = edgepack("inspect", student, "-t", TARGET, "-t", "android", cwd=tmp_path)
    assert looked.returncode == 1
    assert "android-legacy: 1 obstacles" in looked.stdout and "android: converts" in looked.stdout
    assert said in looked.stdout
