"""``edgepack bench`` on this machine: right first, then how fast, then against an older pack."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepack.arrays import load_arrays, save_arrays
from edgepack.converter.step import Limits
from edgepack.devices.local import Local
from edgepack.devices.session import opened
from edgepack.latency.gate import checks
from edgepack.latency.on_device import Bench, OpenPack, measure_on
from edgepack.latency.protocol import profile
from edgepack.pack.files import load_pack
from tests.system.program import edgepack, failure


def convolutions(path: Path, layers: int, size: int = 24) -> Path:
    """A student whose cost is its number of layers."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array((rng.normal(size=(8, 8, 3, 3)) / 6).astype(np.float32), f"w{index}") for index in range(layers)]
    names = ["x", *(f"c{index}" for index in range(layers - 1)), "y"]
    nodes = [
        helper.make_node("Conv", [names[index], f"w{index}"], [names[index + 1]], name=f"conv{index}", pads=[1, 1, 1, 1])
        for index in range(layers)
    ]
    shape = [1, 8, size, size]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, shape)], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def built(folder: Path, name: str, layers: int, size: int = 24) -> Path:
    student = convolutions(folder / f"{name}.onnx", layers, size)
    made = edgepack("build", student, "-t", "raspberry-pi-5", "-t", "ios", "-o", name, "--latency", "none", cwd=folder)
    assert made.returncode == 0, made.stderr
    return folder / name


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packs")
    return {"old": built(folder, "old", 2), "new": built(folder, "new", 8), "other": built(folder, "other", 2, 16)}


def bench(pack: Path, tmp_path: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    return edgepack("bench", pack, "--profile", "smoke", *options, cwd=tmp_path)


def measurements(ended: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ended.stdout)["measurements"]
    return found


def test_what_is_measured_is_kept_in_the_pack_and_shown_in_its_report(packs: dict[str, Path], tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(packs["old"], pack)
    ended = bench(pack, tmp_path, "--json")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    (found,) = measurements(ended)
    assert (found["target"], found["truth"], found["failures"]) == ("raspberry-pi-5", "host", [])
    assert found["latency"]["p50"]["low"] <= found["latency"]["p50"]["value"] <= found["latency"]["p50"]["high"]
    assert found["memory_peak_bytes"] > 2e7
    # The floor is of the target's hardware, not of this machine.
    assert found["latency"]["floor_ms"] > 0
    (kept,) = (pack / "measurements").glob("*.json")
    assert json.loads(kept.read_bytes())["artifact"] == found["artifact"]
    assert "On devices" in (pack / "report.html").read_text()
    assert edgepack("verify", pack, "--quick", cwd=tmp_path).returncode == 0


def test_nothing_is_kept_when_nobody_wants_it(packs: dict[str, Path], tmp_path: Path) -> None:
    assert bench(packs["old"], tmp_path, "--no-save").returncode == 0
    assert not (packs["old"] / "measurements").exists()


def test_a_build_of_four_times_the_work_is_a_regression(packs: dict[str, Path], tmp_path: Path) -> None:
    ended = bench(packs["new"], tmp_path, "--against", packs["old"], "--no-save", "--json")
    (found,) = measurements(ended)
    assert (ended.returncode, found["comparison"]["verdict"]) == (1, "regression")
    assert found["comparison"]["ratio"]["low"] > 1.5
    shown = bench(packs["old"], tmp_path, "--against", packs["new"], "--no-save")
    assert shown.returncode == 0 and "improvement:" in shown.stdout


def test_a_pack_against_itself_is_no_regression(packs: dict[str, Path], tmp_path: Path) -> None:
    ended = bench(packs["old"], tmp_path, "--against", packs["old"], "--no-save", "--json", "--margin", "0.2")
    assert ended.returncode == 0, ended.stderr
    assert measurements(ended)[0]["comparison"]["verdict"] in ("no difference", "inconclusive")


def test_packs_of_other_inputs_are_not_compared(packs: dict[str, Path], tmp_path: Path) -> None:
    ended = bench(packs["old"], tmp_path, "--against", packs["other"], "--no-save")
    assert ended.returncode == 2 and "takes other inputs" in failure(ended)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-t", "ios"), "Core ML's run on Apple systems alone"),
        (("--device", "pi@raspberrypi"), "is no device"),
        (("--device", "ssh://-oProxyCommand=x"), "is no ssh address"),
        (("--device", "qemu://pi3"), "is no device"),
        (("--profile", "fast"), "latency profile 'fast' is not known"),
        (("--seconds", "0"), "0 seconds"),
        (("--against", "nowhere"), "nowhere is not a pack"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(packs: dict[str, Path], tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    ended = bench(packs["old"], tmp_path, "--no-save", *options)
    assert ended.returncode == 2 and words in failure(ended)


def test_an_artifact_that_was_changed_is_not_run(packs: dict[str, Path], tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(packs["old"], pack)
    file = pack / load_pack(pack).artifacts[0].file.path
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    ended = bench(pack, tmp_path)
    assert ended.returncode == 2 and "is not the file that was verified" in failure(ended)


class Wrong(Local):
    """A device that computes the first output wrong by a hundredth."""

    def fetch(self, remote: str, local: Path) -> None:
        super().fetch(remote, local)
        arrays = load_arrays(local)
        save_arrays(local, {name: (array * 1.01).astype(array.dtype) for name, array in arrays.items()})


def test_wrong_answers_have_no_latency_and_fail_the_gate(packs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Local, "runs", str(tmp_path / "runs"))
    manifest = load_pack(packs["old"])
    pack = OpenPack.at(packs["old"], manifest)
    asked = [artifact for artifact in manifest.artifacts if artifact.runner == "ort"]
    with opened(Wrong(), exclusive=True) as session:
        (found,) = measure_on(session, pack, asked, Bench(profile("smoke")), Limits())
    assert found.latency is None and found.comparison is None
    (line,) = found.failures
    assert "output 'y'" in line
    (parity,) = [check for check in checks(manifest, [found]) if check.target == "raspberry-pi-5" and check.name == "parity"]
    assert parity.status == "fail"


def test_a_build_and_a_run_need_no_home(tmp_path: Path) -> None:
    student, home = convolutions(tmp_path / "student.onnx", 2), str(tmp_path / "student.onnx" / "no-folder")
    made = edgepack("build", student, "-t", "raspberry-pi-5", "-o", "pack", "--latency", "smoke", cwd=tmp_path, HOME=home)
    assert made.returncode == 0, made.stderr
    (artifact,) = load_pack(tmp_path / "pack").artifacts
    assert artifact.latency is not None and artifact.latency.p50 is not None
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 8, 24, 24), np.float32))
    ran = edgepack("run", "pack", tmp_path / "x.npz", cwd=tmp_path, HOME=home)
    assert ran.returncode == 0, ran.stderr


def test_junit_names_every_check(packs: dict[str, Path], tmp_path: Path) -> None:
    ended = bench(packs["old"], tmp_path, "--no-save", "--junit", tmp_path / "bench.xml")
    assert ended.returncode == 0
    text = (tmp_path / "bench.xml").read_text()
    assert 'name="latency p90"' in text and "raspberry-pi-5 fp32" in text
