"""The single-file runner, run where there is no edgepack, against onnxruntime used directly."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepack.runner.bundle import PORTABLE, bundle

# -I -S: no folder of this checkout, no site-packages hook (editable installs are one), no environment; the paths of the libraries alone.
_PROGRAM = """
import pathlib, runpy, sys
sys.path += {libraries!r}
if any((pathlib.Path(folder) / "edgepack" / "errors.py").exists() for folder in sys.path):
    raise SystemExit("edgepack is visible here")
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def model(path: Path) -> Path:
    rng = np.random.default_rng(3)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c"], ["y"])],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8])],
        [numpy_helper.from_array(rng.normal(size=(4, 3, 3, 3)).astype(np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_the_program_answers_without_edgepack_what_onnxruntime_answers(tmp_path: Path) -> None:
    path = model(tmp_path / "model.onnx")
    samples = np.random.default_rng(0).normal(size=(5, 1, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=samples)
    files = {"inputs": str(tmp_path / "in.npz"), "outputs": str(tmp_path / "out.npz")}
    request = {"schema": 1, "action": "run", "artifacts": {"m": str(path)}, "threads": 1, **files}
    (tmp_path / "request.json").write_text(json.dumps(request))
    libraries = [str(Path(onnxruntime.__file__).parents[1])]
    program = str(bundle("ort", tmp_path / "ort.pyz"))
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM.format(libraries=libraries), program, str(tmp_path / "request.json")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path, env={})
    assert ended.stdout, ended.stderr
    response = json.loads(ended.stdout.splitlines()[-1])
    assert ended.returncode == 0 and response["ok"], response
    assert (response["runtime"], response["version"], response["count"]) == ("onnxruntime", onnxruntime.__version__, 5)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with np.load(tmp_path / "out.npz") as outputs:
        expected = np.stack([session.run(None, {"x": sample})[0] for sample in samples])
        np.testing.assert_allclose(outputs["y"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("runner", PORTABLE)
def test_the_bytes_are_the_same_every_time_and_everywhere(runner: str, tmp_path: Path) -> None:
    first, second = bundle(runner, tmp_path / "first.pyz"), bundle(runner, tmp_path / "second.pyz")
    assert sha256(first.read_bytes()).digest() == sha256(second.read_bytes()).digest()
    with zipfile.ZipFile(first) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert f"edgepack/runner/{runner}.py" in archive.namelist() and len(archive.namelist()) == (6 if runner == "tflite_runtime" else 5)


@pytest.mark.parametrize("runner", ["mil", "../ort", "none"])
def test_a_runner_that_needs_this_package_is_not_bundled(runner: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not portable"):
        bundle(runner, tmp_path / "runner.pyz")
    assert not list(tmp_path.iterdir())
