"""The MIL runner through the contract, as its callers use it: a process, a request file, .npz files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepack.backends.artifact import WriteOptions
from edgepack.backends.coreml import write


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mil")
    shape = [1, 3]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["y"], name="twice")],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array(2, np.float32), "two")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "hub.onnx")
    return folder / write(folder / "hub.onnx", folder, WriteOptions(scheme="fp32")).file


def ask(package: Path, folder: Path, action: str) -> dict[str, Any]:
    np.savez(folder / "in.npz", x=np.arange(12, dtype=np.float32).reshape(4, 1, 3))
    request = {"schema": 1, "action": action, "artifacts": {"a": str(package)}, "warm_up": 1, "pairs": 1}
    request |= {"inputs": str(folder / "in.npz"), "outputs": str(folder / "out.npz")}
    (folder / "request.json").write_text(json.dumps(request))
    command = [sys.executable, "-m", "edgepack.runner.mil", str(folder / "request.json")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    response: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    assert answer.returncode == (0 if response["ok"] else 1)
    return response


def test_run_doubles_every_sample_and_says_simulated(package: Path, tmp_path: Path) -> None:
    response = ask(package, tmp_path, "run")
    assert (response["ok"], response["truth"], response["count"]) == (True, "simulated", 4)
    assert "MIL interpreter" in response["version"]
    assert response["session"] == {"opset": "CoreML7", "operations": {"mul": 1}}
    with np.load(tmp_path / "out.npz") as outputs:
        assert np.array_equal(outputs["y"], 2 * np.arange(12, dtype=np.float32).reshape(4, 1, 3))


def test_time_is_refused_because_an_interpreter_has_no_latency(package: Path, tmp_path: Path) -> None:
    response = ask(package, tmp_path, "time")
    assert not response["ok"]
    assert "nothing to time" in response["error"]
    assert not (tmp_path / "out.npz").exists()


def test_a_folder_that_is_no_package_is_an_answer_not_a_crash(tmp_path: Path) -> None:
    response = ask(tmp_path / "absent.mlpackage", tmp_path, "run")
    assert not response["ok"]
    assert "absent.mlpackage" in response["error"]
