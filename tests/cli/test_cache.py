"""``edgepack cache`` and ``edgepack plan`` over a store with real results in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.system.program import edgepack, failure
from tests.verify.test_claims import data, network


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, its data, and a store that one build has filled."""
    place = tmp_path_factory.mktemp("cache")
    data(place, network(place / "student.onnx"))
    ended = run("build", "student.onnx", "-t", "raspberry-pi-5", "-c", "data.toml", "--latency", "none", folder=place)
    assert ended["ok"] is True
    return place


def run(*arguments: str, folder: Path, code: int = 0) -> dict:  # type: ignore[type-arg]
    ended = edgepack(*arguments, "--json", cwd=folder, EDGEPACK_STORE=str(folder / "store"))
    assert ended.returncode == code, ended.stderr + ended.stdout
    return json.loads(ended.stdout)  # type: ignore[no-any-return]


def test_plan_says_what_is_held_and_names_the_option_that_changed(folder: Path) -> None:
    asked = ("plan", "student.onnx", "-t", "raspberry-pi-5", "-c", "data.toml")
    assert {step["state"] for step in run(*asked, folder=folder)["steps"]} == {"held"}
    steps = {step["step"]: step for step in run(*asked, "--ranges", "mse", folder=folder)["steps"]}
    assert steps["quantize w8a8"]["why"] == ['parameter demands.method changed from "minmax" to "mse"']
    assert steps["raspberry-pi-5 w8a8: write"]["state"] == "waits" and steps["raspberry-pi-5 fp32: judge"]["state"] == "held"


def test_plan_names_the_data_that_changed_though_size_and_time_are_the_same(folder: Path, tmp_path: Path) -> None:
    path = folder / "calibration.npz"
    content, stat = path.read_bytes(), path.stat()
    try:
        path.write_bytes(content[:-200] + bytes([content[-200] ^ 1]) + content[-199:])
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        found = run("plan", "student.onnx", "-t", "raspberry-pi-5", "-c", "data.toml", folder=folder)["steps"]
    finally:
        path.write_bytes(content)
    steps = {step["step"]: step for step in found}
    assert steps["samples"]["why"] == ["data calibration.npz changed"] and steps["hub"]["state"] == "held"


def test_list_counts_what_lies_there(folder: Path) -> None:
    held = run("cache", "list", folder=folder)
    assert held["bytes"] == sum(entry["bytes"] for entry in held["entries"]) > 0
    assert {"capture", "hub", "quantize w8a8"} <= {entry["step"] for entry in held["entries"]}


def test_verify_removes_a_damaged_result_once_and_the_next_build_makes_it_again(folder: Path) -> None:
    path = next((folder / "store").glob("entries/*/*/files/captured.onnx"))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    (removed,) = run("cache", "verify", folder=folder, code=1)["removed"]
    assert removed["step"] == "capture" and removed["what"] == "captured.onnx is not what was written"
    assert run("cache", "verify", folder=folder)["removed"] == []
    found = run("plan", "student.onnx", "-t", "raspberry-pi-5", "-c", "data.toml", folder=folder)["steps"]
    assert next(step for step in found if step["step"] == "capture")["why"] == ["the store holds its result no longer"]


def test_prune_needs_to_be_told_what_may_go_and_then_removes_it(folder: Path) -> None:
    ended = edgepack("cache", "prune", cwd=folder, EDGEPACK_STORE=str(folder / "store"))
    assert ended.returncode == 2 and "say what may go" in ended.stderr
    assert run("cache", "prune", "--older-than", "1d", folder=folder)["removed"] == 0
    count = len(run("cache", "list", folder=folder)["entries"])
    assert run("cache", "prune", "--keep", "0", folder=folder)["removed"] == count
    assert run("cache", "list", folder=folder)["entries"] == []


def test_a_store_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    ended = edgepack("cache", "list", "--store", "nowhere", cwd=tmp_path)
    assert ended.returncode == 3 and "there is no store at nowhere" in failure(ended)
