"""The LiteRT runner: the contract, its refusals, and what it says about partitions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx.helper import make_node as node

from edgepack.runner import litert
from tests.backends.sized import Open, Written
from tests.backends.tflite.models import convert, run_ort, single


def prepared(folder: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((4, 1, 3, 8, 8)).astype(np.float32)
    hub = single("Conv", samples[0], weights={"w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32)})
    convert(hub, folder)
    np.savez(folder / "in.npz", x0=samples.transpose(0, 1, 3, 4, 2))
    return {"samples": samples}


def test_request_answered_in_a_process_of_its_own_equals_onnxruntime(tmp_path: Path) -> None:
    samples = prepared(tmp_path)["samples"]
    request = {
        "schema": 1,
        "action": "run",
        "artifacts": {"model": str(tmp_path / "model.tflite")},
        "inputs": str(tmp_path / "in.npz"),
        "outputs": str(tmp_path / "out.npz"),
        "threads": 1,
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    command = [sys.executable, "-m", "edgepack.runner.litert", str(tmp_path / "request.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    response = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and response["ok"] and response["truth"] == "host" and response["count"] == 4
    assert response["session"] == {"partitions": 1, "operators": 1, "outside": {}}
    with np.load(tmp_path / "out.npz") as results:
        ours = results["y"].transpose(0, 1, 4, 2, 3)
    for index, sample in enumerate(samples):
        np.testing.assert_allclose(ours[index], run_ort(tmp_path, {"x0": sample})["y"], rtol=1e-5, atol=1e-5)


def test_operators_outside_every_partition_are_named(tmp_path: Path) -> None:
    convert(single("Round", np.ones((2, 3), np.float32)), tmp_path)
    described = litert.RUNTIME.load(str(tmp_path / "model.tflite"), 1).describe()
    assert described["operators"] == 1 and sum(described["outside"].values()) + described["partitions"] == 1


@pytest.mark.parametrize(
    ("feed", "said"),
    [
        ({"wrong": np.zeros((1, 8, 8, 3), np.float32)}, "inputs"),
        ({"x0": np.zeros((1, 3, 8, 8), np.float32)}, "shape"),
        ({"x0": np.zeros((1, 8, 8, 3), np.complex64)}, "takes"),
    ],
)
def test_a_feed_that_does_not_fit_is_refused(feed: dict[str, np.ndarray], said: str, tmp_path: Path) -> None:
    prepared(tmp_path)
    session = litert.RUNTIME.load(str(tmp_path / "model.tflite"), 1)
    with pytest.raises(ValueError, match=said):
        session.set_inputs(feed)


def test_outputs_are_copies(tmp_path: Path) -> None:
    prepared(tmp_path)
    session = litert.RUNTIME.load(str(tmp_path / "model.tflite"), 1)
    session.set_inputs({"x0": np.ones((1, 8, 8, 3), np.float32)})
    session.invoke()
    first = session.outputs()["y"]
    kept = first.copy()
    session.set_inputs({"x0": np.zeros((1, 8, 8, 3), np.float32)})
    session.invoke()
    np.testing.assert_array_equal(first, kept)


def test_open_sizes_are_resized_and_fixed_ones_are_not(tmp_path: Path) -> None:
    held = Open([node("Relu", ["x"], ["y"])], ("n", 3), {"n": (1, 9)}, {"n": 2})
    Written(held, tmp_path, "tflite")
    session = litert.RUNTIME.load(str(tmp_path / "model.tflite"), 1)
    for rows in (2, 7, 1):
        x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) - 4
        session.set_inputs({"x": x})
        session.invoke()
        np.testing.assert_array_equal(session.outputs()["y"], np.maximum(x, 0))
    with pytest.raises(ValueError, match="input x has shape"):
        session.set_inputs({"x": np.zeros((2, 4), np.float32)})
    with pytest.raises(ValueError, match="input x has shape"):
        session.set_inputs({"x": np.zeros((2, 3, 1), np.float32)})
