"""The contract against a runtime of this file: order, samples, refusals."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepack.runner import contract


class Doubling:
    """A session that doubles ``x`` and notes what is asked of it."""

    def __init__(self, artifact: str, calls: list[str]) -> None:
        self._artifact, self._calls = artifact, calls

    def set_inputs(self, feed: Any) -> None:
        self._x = np.array(feed["x"])

    def invoke(self) -> None:
        self._calls.append(self._artifact)
        time.sleep(0.001)

    def outputs(self) -> contract.Arrays:
        return {"y": 2 * self._x}

    def describe(self) -> dict[str, Any]:
        return {"artifact": self._artifact}


class Sample:
    """A runtime with two artifacts, "a" and "b"."""

    name, version, truth = "sample", "1.2", "simulated"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.threads: list[int] = []

    def load(self, artifact: str, threads: int) -> Doubling:
        if artifact not in ("a", "b"):
            raise FileNotFoundError(f"no artifact {artifact}")
        self.threads.append(threads)
        return Doubling(artifact, self.calls)


SAMPLES = np.arange(12, dtype=np.float32).reshape(6, 2)


class Asked:
    """A runtime's answer to a request, with the files beside it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], runtime: Any = None, **fields: Any) -> None:
        self.runtime = runtime or Sample()
        inputs = fields.pop("arrays", {"x": SAMPLES})
        np.savez(folder / "in.npz", **inputs)
        request = {"schema": 1, "artifacts": {"first": "a"}, "inputs": str(folder / "in.npz"), "outputs": str(folder / "out.npz"), **fields}
        (folder / "request.json").write_text(json.dumps(request))
        self.code = contract.main(self.runtime, [str(folder / "request.json")])
        said = capsys.readouterr()
        self.response: dict[str, Any] = json.loads(said.out.splitlines()[-1])
        self.progress = [json.loads(line)["progress"] for line in said.err.splitlines()]
        self.outputs = {}
        if (folder / "out.npz").exists():
            with np.load(folder / "out.npz") as held:
                self.outputs = dict(held)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_run_answers_every_sample_in_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = Asked(folder, capsys, action="run", threads=3)
    assert (asked.code, asked.response["ok"], asked.response["count"]) == (0, True, 6)
    np.testing.assert_array_equal(asked.outputs["y"], 2 * SAMPLES)
    assert asked.runtime.threads == [3] and asked.response["session"] == {"artifact": "a"}
    assert (asked.response["runtime"], asked.response["version"], asked.response["truth"]) == ("sample", "1.2", "simulated")


def test_time_interleaves_abba_after_warming_each_up_and_drops_no_sample(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = Asked(folder, capsys, action="time", artifacts={"fp32": "a", "w8a8": "b"}, warm_up=2, pairs=5)
    assert "".join(asked.runtime.calls) == "aabb" + "ab" + "ba" + "ab" + "ba" + "ab"
    assert {label: len(times) for label, times in asked.outputs.items()} == {"fp32": 5, "w8a8": 5, "fp32@start": 5, "w8a8@start": 5}
    assert {label: len(times) for label, times in asked.response["warm_up_ns"].items()} == {"fp32": 2, "w8a8": 2}
    assert all((asked.outputs[label] >= 1_000_000).all() for label in ("fp32", "w8a8"))
    assert asked.response["count"] == 5 and asked.response["timer_resolution_ns"] > 0
    # The rounds are ten queries of a millisecond; warming up is none of it.
    assert asked.response["ended_s"] - asked.response["began_s"] >= 0.01 and asked.response["ended_s"] <= time.monotonic()


def test_three_artifacts_are_timed_forwards_and_backwards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = Asked(folder, capsys, action="time", artifacts={"1": "a", "2": "b", "3": "a"}, warm_up=0, pairs=2)
    assert "".join(asked.runtime.calls) == "aba" + "aba"
    assert {name for name in asked.outputs if not name.endswith("@start")} == {"1", "2", "3"}


def test_time_goes_on_until_its_seconds_are_over_and_still_says_little(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = Asked(folder, capsys, action="time", warm_up=0, pairs=20, seconds=0.2)
    assert sum(asked.outputs["first"]) >= 0.15e9 and len(asked.outputs["first"]) > 20
    assert len(asked.progress) == 10 and asked.progress[-1] == [20, 20]


def test_describe_loads_without_computing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = Asked(folder, capsys, action="describe")
    assert asked.response["session"] == {"artifact": "a"} and asked.runtime.calls == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schema": 2, "action": "run"}, "request schema 2 is not 1"),
        ({"action": "dance"}, "action 'dance' is none of run, time, describe"),
        ({"action": "run", "artifacts": {"x": "lost"}}, "no artifact lost"),
        ({"action": "run", "arrays": {"x": SAMPLES, "z": SAMPLES[:4]}}, "different numbers of samples: [4, 6]"),
        ({"action": "time", "warm_up": 1, "pairs": 0}, "0 pairs measure nothing"),
        ({"action": "time", "artifacts": {"x@start": "a"}, "warm_up": 1, "pairs": 1}, "a label ends in '@start'"),
        ({"action": "run", "inputs": "/nowhere.npz"}, "nowhere"),
    ],
)
def test_what_cannot_be_answered_is_an_answer_that_says_why(
    fields: dict[str, Any], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = Asked(folder, capsys, **fields)
    assert asked.code == 1 and not asked.response["ok"] and words in asked.response["error"]
    assert asked.outputs == {}


def test_a_runtime_without_latency_refuses_to_time(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime = Sample()
    runtime.no_latency = "it only interprets"  # type: ignore[attr-defined]
    asked = Asked(folder, capsys, runtime, action="time", warm_up=1, pairs=1)
    assert "there is nothing to time: it only interprets" in asked.response["error"] and runtime.calls == []


def test_a_request_that_is_no_json_or_not_there_is_an_answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "request.json").write_text("{")
    for name in ("request.json", "absent.json"):
        assert contract.main(Sample(), [str(folder / name)]) == 1
        assert not json.loads(capsys.readouterr().out)["ok"]


def test_a_wrong_command_line_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert contract.main(Sample(), []) == 2
    assert capsys.readouterr().err == "usage: sample request.json\n"


def test_a_tethered_runner_leaves_when_its_standard_input_closes(tmp_path: Path) -> None:
    program = """
import sys, time
from edgepack.runner import contract
class Endless:
    name = version = truth = "endless"
    def load(self, artifact, threads):
        print("loading", flush=True)
        time.sleep(600)
raise SystemExit(contract.main(Endless()))
"""
    (tmp_path / "request.json").write_text('{"schema": 1, "action": "describe", "artifacts": {"x": "a"}, "tethered": true}')
    command = [sys.executable, "-c", program, str(tmp_path / "request.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == b"loading\n"
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(20) == 1


def test_a_tethered_runner_ends_well_while_its_standard_input_is_open(tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text('{"schema": 1, "action": "describe", "artifacts": {"x": "a"}, "tethered": true}')
    program = "import time; from tests.runner.test_contract import *; code = contract.main(Sample()); time.sleep(0.2); sys.exit(code)"
    command = [sys.executable, "-c", program, str(tmp_path / "request.json")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert (process.wait(60), process.stderr.read()) == (0, b"")


def test_the_contract_imports_nothing_but_the_standard_library_and_numpy() -> None:
    imports = re.findall(r"^\s*(?:from|import) (\w+)", Path(contract.__file__).read_text(), re.MULTILINE)
    assert {name for name in imports if name not in sys.stdlib_module_names} == {"numpy"}
    assert os.path.basename(contract.__file__) == "contract.py"  # noqa: PTH119 - what the bundle copies


class Summing(Doubling):
    """A session with a state: what it heard so far."""

    def set_inputs(self, feed: Any) -> None:
        self._x = np.array(feed["x"] + feed["past"])

    def outputs(self) -> contract.Arrays:
        return {"y": self._x}


class Stateful(Sample):
    """A runtime whose artifacts carry a state from "y" to "past"."""

    def load(self, artifact: str, threads: int) -> Summing:
        return Summing(artifact, self.calls)


def test_a_state_goes_from_sample_to_sample_until_the_next_sequence_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {"x": np.ones((5, 1), np.float32), "past": np.zeros((5, 1), np.float32)}
    fields: dict[str, Any] = {"action": "run", "arrays": arrays, "state": {"past": "y"}, "starts": [3]}
    assert Asked(tmp_path, capsys, Stateful(), **fields).outputs["y"].ravel().tolist() == [1, 2, 3, 1, 2]
