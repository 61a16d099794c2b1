"""``edgepack bench`` on this machine: right first, then how fast, then against an older pack."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from edgepack.arrays import load_arrays, save_arrays
from edgepack.cli.app import app
from edgepack.converter.process import StepFailedError
from edgepack.converter.step import Limits
from edgepack.devices.local import Local
from edgepack.devices.runner_process import RunnerError
from edgepack.devices.session import opened
from edgepack.devices.transport import TransportError
from edgepack.latency import on_device
from edgepack.latency.bench import bench as run_bench
from edgepack.latency.gate import checks
from edgepack.latency.on_device import Bench, OpenPack, measure_on
from edgepack.latency.protocol import profile
from edgepack.pack.digest import file_record
from edgepack.pack.files import load_pack
from edgepack.pack.manifest import Measurement
from edgepack.pack.measurements import held
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
    assert isinstance(found, Measurement)
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


class Breaking(Local):
    """A device whose connection goes when results are fetched for the ``after`` + 1st time."""

    after = 2

    def __init__(self) -> None:
        super().__init__()
        self.fetched = 0

    def fetch(self, remote: str, local: Path) -> None:
        self.fetched += 1
        if self.fetched > self.after:
            raise TransportError("the connection broke", "try again")
        super().fetch(remote, local)


@pytest.fixture
def two_targets(packs: dict[str, Path], tmp_path: Path) -> Path:
    """A pack of which this machine runs two artifacts of two targets."""
    made = edgepack(
        "build", packs["old"].parent / "old.onnx", "-t", "raspberry-pi-5", "-t", "android", "-o", "two", "--latency", "none", cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr
    return tmp_path / "two"


def on(device: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepack.devices.sessions.connected", lambda _: nullcontext(device))


def kept(pack: Path) -> list[Measurement]:
    return sorted(held(pack, load_pack(pack)), key=lambda each: each.target)


def test_what_was_measured_before_the_connection_broke_is_in_the_pack(two_targets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on(Breaking(), monkeypatch)
    with pytest.raises(TransportError, match="the connection broke"):
        run_bench(two_targets, profile="smoke")
    (whole,) = kept(two_targets)
    assert whole.target == "raspberry-pi-5" and whole.latency is not None
    assert "On devices" in (two_targets / "report.html").read_text()


def test_answers_are_kept_where_the_connection_broke_while_they_were_timed(two_targets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Breaking()
    device.after = 1
    on(device, monkeypatch)
    with pytest.raises(TransportError):
        run_bench(two_targets, profile="smoke")
    (answered,) = kept(two_targets)
    assert answered.latency is None and answered.parity.samples > 0 and not answered.failures


def test_a_comparison_that_breaks_takes_nothing_away(two_targets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Breaking()
    # Answers and times of both, the older pack's answers, and the first look.
    device.after = 5
    on(device, monkeypatch)
    with pytest.raises(TransportError):
        run_bench(two_targets, profile="smoke", against=two_targets)
    assert [each.latency is not None for each in kept(two_targets)] == [True, True]


def test_an_artifact_whose_runner_crashes_takes_no_other_along(two_targets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crashes(session: Any, pack: OpenPack, artifact: Any, *others: Any) -> Any:
        if artifact.target == "raspberry-pi-5":
            raise RunnerError("the ort runner crashed (SIGILL): it said nothing", "report it")
        return real(session, pack, artifact, *others)

    real = on_device.answer
    monkeypatch.setattr(on_device, "answer", crashes)
    result = run_bench(two_targets, profile="smoke")
    assert [each.target for each in result.measurements] == ["android"] == [each.target for each in kept(two_targets)]
    (failed,) = result.failures
    assert failed.subject == "raspberry-pi-5 fp32" and not result.passed
    (line,) = [each for each in result.checks if each.target == "raspberry-pi-5"]
    assert (line.name, line.status) == ("parity", "fail") and "SIGILL" in line.words
    with pytest.raises(RunnerError, match="SIGILL"):
        run_bench(two_targets, targets=["raspberry-pi-5"], profile="smoke")
    shown = CliRunner().invoke(app, ["bench", str(two_targets), "--profile", "smoke"])
    # The table of what did run, and then the failure.
    assert "android" in shown.stdout and isinstance(shown.exception, StepFailedError)
    assert (shown.exception.step, shown.exception.exit_code) == ("raspberry-pi-5 fp32", 3)
    told = CliRunner().invoke(app, ["bench", str(two_targets), "--profile", "smoke", "--json"])
    assert told.exit_code == 3 and "SIGILL" in json.loads(told.stdout)["failures"][0]["cause"]


def test_an_old_pack_that_lacks_an_artifact_or_answers_wrong_is_told(
    two_targets: Path, packs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_bench(two_targets, profile="smoke", against=packs["new"], save=False)
    found = {each.target: each for each in result.checks if each.name == "older pack"}
    assert found["raspberry-pi-5"].status == "pass" and found["raspberry-pi-5"].words.startswith("improvement")
    assert (found["android"].status, found["android"].words) == ("not measured", "not compared: the older pack has no android fp32")
    # An older build that claims to be of another student: its answers are far from the float64 run that it holds.
    wrong = tmp_path / "wrong"
    shutil.copytree(packs["new"], wrong)
    manifest = load_pack(wrong)
    reference = wrong / manifest.golden_reference.path
    save_arrays(reference, {name: 2 * array for name, array in load_arrays(reference).items()})
    changed = replace(manifest, golden_reference=file_record(wrong, reference))
    (wrong / "pack.json").write_bytes(msgspec.json.encode(changed))
    result = run_bench(packs["old"], profile="smoke", against=wrong, save=False)
    (older,) = [each for each in result.checks if each.name == "older pack"]
    assert older.status == "not measured" and "answers wrong on this device" in older.words
    assert result.measurements[0].comparison is None and result.failures == ()


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (lambda pack: (pack / "measurements").mkdir() or (pack / "measurements" / "a.json").write_text("{"), (), "a.json is damaged"),
        (lambda pack: (pack / "measurements").write_text(""), (), "cannot take a measurement"),
        (lambda pack: None, ("--junit", "absent/gate.xml"), "absent/gate.xml cannot be written"),
    ],
)
def test_what_cannot_be_kept_is_found_before_anything_runs(
    packs: dict[str, Path], tmp_path: Path, spoil: Any, options: tuple[str, ...], words: str
) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(packs["old"], pack)
    spoil(pack)
    # No such device: were it asked first, the failure would be another.
    ended = bench(pack, tmp_path, "--device", "ssh://nobody.invalid", *options)
    assert ended.returncode == 2 and words in failure(ended)


def test_a_pack_without_an_fp32_hub_is_measured_without_a_floor(packs: dict[str, Path]) -> None:
    manifest = load_pack(packs["old"])
    artifact = next(each for each in manifest.artifacts if each.target == "raspberry-pi-5")
    assert OpenPack.at(packs["old"], manifest).floor_ms(artifact, 1)
    assert OpenPack.at(packs["old"], replace(manifest, hubs=())).floor_ms(artifact, 1) is None


def test_artifacts_that_are_left_out_are_named(packs: dict[str, Path], tmp_path: Path) -> None:
    ended = bench(packs["old"], tmp_path, "--no-save")
    assert ended.returncode == 0 and "ios fp32 is not run: Core ML runs on Apple systems alone" in ended.stdout
