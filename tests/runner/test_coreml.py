"""The Core ML runner through the contract, against a stand-in of coremltools' predict: it shows the program, not Core ML."""

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
from edgepack.runner.bundle import bundle
from tests.backends.coreml.flexible_models import hub_of, opened
from tests.fakes.mac import Mac


def written(folder: Path, scheme: str = "fp32", images: dict[str, str] | None = None, channels: int = 1) -> Path:
    shape = [1, channels, 2, 3]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["y"], name="twice")],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array(2, np.float32), "two")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "hub.onnx")
    return folder / write(folder / "hub.onnx", folder, WriteOptions(scheme=scheme, image_inputs=images or {})).file


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("coreml"))


@pytest.fixture
def mac(tmp_path: Path) -> Mac:
    return Mac.make(tmp_path / "mac")


def ask(mac: Mac, package: Path, folder: Path, action: str = "run", samples: Any = None, more: Any = (), **request: Any) -> dict[str, Any]:
    """What the single-file program answers where there is no edgepack."""
    np.savez(folder / "in.npz", x=SAMPLES if samples is None else samples, **dict(more))
    asked = {"schema": 1, "action": action, "artifacts": {"a": str(package)}, "warm_up": 1, "pairs": 3, "unit": "cpu_only"}
    asked |= {"inputs": str(folder / "in.npz"), "outputs": str(folder / "out.npz"), **request}
    (folder / "request.json").write_text(json.dumps(asked))
    command = [sys.executable, str(bundle("coreml", folder / "coreml.pyz")), str(folder / "request.json")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env={"PYTHONPATH": mac.path}, cwd=folder)
    assert answer.stdout, answer.stderr
    response: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    assert answer.returncode == (0 if response["ok"] else 1)
    return response


SAMPLES = np.arange(24, dtype=np.float32).reshape(4, 1, 1, 2, 3)


@pytest.mark.parametrize("unit", ["all", "cpu_and_ne"])
def test_run_doubles_every_sample_on_a_unit(mac: Mac, package: Path, tmp_path: Path, unit: str) -> None:
    response = ask(mac, package, tmp_path, unit=unit)
    assert (response["ok"], response["truth"], response["count"], response["session"]) == (True, "host", 4, {"unit": unit})
    assert response["runtime"] == "Core ML" and "coremltools" in response["version"]
    with np.load(tmp_path / "out.npz") as outputs:
        assert outputs["y"].dtype == np.float32 and np.array_equal(outputs["y"], 2 * SAMPLES)


def test_time_is_taken_of_each_artifact_in_turn(mac: Mac, package: Path, tmp_path: Path) -> None:
    mac.behave(seconds=0.01)
    response = ask(mac, package, tmp_path, "time", artifacts={"a": str(package), "b": str(package)})
    assert response["ok"] and response["count"] == 3
    with np.load(tmp_path / "out.npz") as times:
        assert all(times[label].min() > 10_000_000 for label in "ab")


def test_an_image_is_handed_over_as_one(mac: Mac, tmp_path: Path) -> None:
    package = written(tmp_path, images={"x": "RGB"}, channels=3)
    pixels = np.random.default_rng(5).integers(0, 256, (2, 1, 3, 2, 3)).astype(np.float32)
    assert ask(mac, package, tmp_path, samples=pixels)["ok"]
    with np.load(tmp_path / "out.npz") as outputs:
        assert np.array_equal(outputs["y"], 2 * pixels)
    refused = ask(mac, package, tmp_path, samples=pixels + 0.5)
    assert not refused["ok"] and "whole pixels 0 to 255" in refused["error"]


def summing(folder: Path) -> Path:
    """A package that adds what it hears to a state, and gives twice the sum."""
    nodes = [helper.make_node("Add", ["x", "past"], ["next"], name="add"), helper.make_node("Mul", ["next", "two"], ["y"], name="twice")]
    x, past, y, following = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("x", "past", "y", "next"))
    graph = helper.make_graph(nodes, "sum", [x, past], [y, following], [numpy_helper.from_array(np.array(2, np.float32), "two")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "hub.onnx")
    return folder / write(folder / "hub.onnx", folder, WriteOptions("fp16", minimum_os="iOS18", state={"past": "next"})).file


def test_a_state_that_core_ml_keeps_is_written_before_a_step_and_read_after_it(mac: Mac, tmp_path: Path) -> None:
    package, steps = summing(tmp_path), np.arange(12, dtype=np.float32).reshape(4, 1, 3)
    past = np.full((4, 1, 3), 100, np.float32)
    for state, starts in (({}, range(4)), ({"past": "next"}, [0, 2])):
        assert ask(mac, package, tmp_path, samples=steps, more={"past": past}, state=state, starts=list(starts))["ok"]
        wanted = [sample + (100 if not state or index in starts else 100 + steps[index - 1]) for index, sample in enumerate(steps)]
        with np.load(tmp_path / "out.npz") as outputs:
            assert outputs["next"].dtype == np.float32 and np.array_equal(outputs["next"], wanted)
            assert np.array_equal(outputs["y"], 2 * np.asarray(wanted))
    assert ask(mac, package, tmp_path, "time", samples=steps, more={"past": past})["ok"]


def test_samples_of_any_size_in_the_range_are_handed_over(mac: Mac, tmp_path: Path) -> None:
    hub = hub_of([helper.make_node("Mul", ["x", "two"], ["y"])], {"x": [1, "n", 2]}, {"two": np.array(2, np.float32)})
    package = opened(hub, tmp_path).package
    for size in (1, 40):
        samples = np.random.default_rng(size).standard_normal((2, 1, size, 2)).astype(np.float32)
        assert ask(mac, package, tmp_path, samples=samples)["ok"]
        with np.load(tmp_path / "out.npz") as outputs:
            assert np.array_equal(outputs["y"], 2 * samples)


@pytest.mark.parametrize(
    ("how", "request_", "words"),
    [
        ({"without_core_ml": True}, {}, "Unable to load CoreML.framework"),
        ({"fails_on": "cpu_only"}, {}, "Error computing NN outputs"),
        ({"no_module": True}, {}, "No module named 'coremltools'"),
        ({}, {"unit": "ane"}, "no compute unit 'ane'"),
    ],
)
def test_what_fails_there_is_said_in_its_own_words(
    mac: Mac, package: Path, tmp_path: Path, how: dict[str, Any], request_: dict[str, Any], words: str
) -> None:
    mac.behave(**how)
    response = ask(mac, package, tmp_path, **request_)
    assert not response["ok"] and words in response["error"]


def test_on_this_machine_core_ml_itself_is_missing(package: Path, tmp_path: Path) -> None:
    if sys.platform == "darwin":
        pytest.skip("this is a Mac")
    np.savez(tmp_path / "in.npz", x=SAMPLES)
    request = {"schema": 1, "action": "run", "artifacts": {"a": str(package)}, "unit": "all"}
    request |= {"inputs": str(tmp_path / "in.npz"), "outputs": str(tmp_path / "out.npz")}
    (tmp_path / "request.json").write_text(json.dumps(request))
    command = [sys.executable, "-m", "edgepack.runner.coreml", str(tmp_path / "request.json")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    response = json.loads(answer.stdout.splitlines()[-1])
    assert answer.returncode == 1 and not response["ok"] and response["error"]
